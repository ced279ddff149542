"""gunicorn's settings, each with its reason. Used by `gunicorn -c gunicorn_config.py` and by `python -m webapp`."""

# First of all: preload imports the app in the master, and what it imports must see patched sockets and locks.
from gevent import events, monkey

# gevent looks for its plugins among all installed packages, 25 times, in the master and again in each worker: a third
# of a second each time, and there is none. Not needed once gevent looks once, or lets us say that there is none.
events.notify_and_call_entry_points = events.notify
# Not subprocess: gevent waits for children on the main thread alone, and torch runs a compiler on another.
monkey.patch_all(subprocess=False)

import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

# webapp and contracts lie beside this file; other projects have packages of such names.
sys.path.insert(0, str(Path(__file__).resolve().parent))

# numpy's and scipy's OpenBLAS start a thread a core at their import, in the master, before the fork. None is used.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# supervisord gives it under its first name, which a release of before the renaming reads, too.
if _color := os.environ.pop("RERANK_COLOUR", ""):
    os.environ["RERANK_COLOR"] = _color

from webapp.stack.releases import environment as _release  # noqa: E402

# HUP reads this file again, but what the master has assembled stays.
_serving = sys.modules.get("webapp.servers.gunicorn.wsgi")
if _serving is None:
    _release.become_release()  # before anything that takes long to load

import logging.config  # noqa: E402
from typing import Any  # noqa: E402

from gunicorn import arbiter as _arbiter  # noqa: E402
from gunicorn.workers import ggevent as _ggevent  # noqa: E402

from contracts.logging import configure as _logs  # noqa: E402
from webapp.config import settings as _settings  # noqa: E402
from webapp.domain import concurrency as _concurrency  # noqa: E402
from webapp.domain.errors import SetupError  # noqa: E402
from webapp.servers.gunicorn.worker import with_grace as _with_grace  # noqa: E402
from webapp.stack.processes import handle_stop_signals_in_forks as _end_forks  # noqa: E402

# At HUP the settings stay, too, but for a deploy that gave this color another release. A settings file that is being
# edited can't harm what runs.
try:
    _chosen = _release.load_release(_serving.settings if _serving else None)
except SetupError as _error:
    logging.config.dictConfig(_logs.log_config(level="info", log_format="json", service="webapp"))
    logging.getLogger("webapp").critical("%s", _error)
    raise SystemExit(1) from None

wsgi_app = "webapp.servers.gunicorn.wsgi:app"
# The gevent worker, which also starts the engine and drains.
worker_class = "webapp.servers.gunicorn.worker.Worker"
workers = _chosen.workers
# The artifact and the tokenizer are read once, and workers share the pages. What the master imported can't be reloaded,
# so `reranking run --reload` does without.
preload_app = "WEBAPP_RELOAD" not in os.environ

# Under supervisor it is supervisor's own socket, and none of these three matters: see supervisor/activate.
bind = [f"unix:{_chosen.webapp_socket}"]
umask = 0o077  # the socket is for this user alone
backlog = 2048  # the kernel caps it at net.core.somaxconn

# A full pool stops accepting without an answer: admission must refuse first. Beside admitted requests there are idle
# keep-alives of nginx, health checks, and requests that are being refused.
worker_connections = _chosen.max_ongoing_requests + 256

# nginx closes idle upstream connections after 15 s; we must be the later one, or a request meets a closed connection.
keepalive = 20

# Heartbeat of the hub, not of a request: it beats once a second whatever the engine threads do.
timeout = 60
# The ladder: app deadline < nginx's proxy_read_timeout = this < nginx's shutdown < supervisor's stopwaitsecs.
graceful_timeout = _chosen.request_timeout_s + _settings.PROXY_GRACE_S

# As much as nginx lets through (large_client_header_buffers), which refuses the rest in JSON.
limit_request_line = 8190
limit_request_field_size = 8190
limit_request_fields = 1100  # nginx takes 1000 and adds its own

# gunicorn_h1c, where it is installed, reads many headers differently, and looking for it costs time.
http_parser = "python"

# Recycling by count would close the listener and cut long requests; memory is kept flat instead.
max_requests = 0

# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 # nosec B108

# It would start a thread in the master, before the fork, and write into the home directory.
control_socket_disable = True

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # engine threads are the parallelism
logconfig_dict = _logs.log_config(
    level=_chosen.log_level, log_format=_chosen.log_format, service="webapp", color=_chosen.color
)
_logs.catch_the_rest(log_format=_chosen.log_format, service="webapp", color=_chosen.color)
logger_class = "webapp.servers.gunicorn.worker.Log"
proc_name = "reranking"

if _serving is None:  # at HUP the old workers still count
    _concurrency.make_steady(_arbiter, _ggevent)  # a clock that is set cuts no drain short, and makes none endless
    _arbiter.Arbiter.murder_workers = _with_grace(_arbiter.Arbiter.murder_workers)
    _end_forks()  # else a worker told to stop before it listens is waited for until graceful_timeout


def on_reload(server: Any) -> None:
    """Renew the app after HUP, before the new workers are forked; runs in the master."""
    if preload_app:
        from webapp.servers.gunicorn.wsgi import renew  # noqa: PLC0415 - the app is loaded by now

        server.app.callable = renew(_chosen)
