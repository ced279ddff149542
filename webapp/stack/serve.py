"""`reranking serve`: the whole stack in the foreground. Prepare the model, render configuration, run supervisord.

Start order: model, supervisord -> webapp, nginx, pusher, metrics; a first score; then the line with the URL. Stop order
is supervisor's: the pusher closes browsers' connections, nginx finishes its requests, the webapp drains, supervisord
ends, then we do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import IO

from contracts.api_keys import make_own
from webapp import __version__
from webapp.config.paths import ROOT, program
from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.config.sources import FILE_VARIABLE
from webapp.domain.errors import SetupError
from webapp.engine.artifact import MANIFEST, artifact_dir, read_served
from webapp.stack import preflight, processes
from webapp.stack.console import Console
from webapp.stack.instance import ADDRESS, is_removed, lock_run_dir, note_address
from webapp.stack.local_client import ask, url_of
from webapp.stack.nginx.config import WITHOUT_STREAM, inspect_nginx, nginx_conf
from webapp.stack.nginx.traffic_split import FALLBACK, point
from webapp.stack.processes import WITH_PARENT, NginxShutdown, Signals, children, command_line, wait_until
from webapp.stack.releases.comparison import start_if_due
from webapp.stack.releases.environment import environment, settings_with
from webapp.stack.releases.recovery import resume
from webapp.stack.releases.state import COLORS, program_of
from webapp.stack.repair import SPARE, Repair, replace_hung
from webapp.stack.supervisor.client import GIVEN_UP, Programs
from webapp.stack.tls import prepare_certificate, publish_certificate, served_certificate, webroot_problem
from webapp.telemetry import multiprocess

READY_TIMEOUT_S = 120.0
POLL_S = 0.02

PUSHER_WAIT_S = 5.0
"""Longest wait for the pusher. Nothing needs it, but an operator who reads that we are ready may open the dashboard."""

RELOADED = ("webapp-blue", "webapp-green", "pusher")
"""Programs that get HUP: gunicorn replaces its workers, and the pusher reads keys. nginx needs none: it would cut kept
connections, and it reads the certificate at each handshake."""

NOTIFY_VARIABLE = "NOTIFY_SOCKET"
"""Names systemd's socket. Hidden from our programs: gunicorn would say that all is ready when only it is."""

log = logging.getLogger(__name__)

_BEGAN = time.monotonic()

_FIRST_REQUEST = json.dumps({"query": "is it ready", "documents": ["it is"]}).encode()
"""One document, so that no allowed RERANK_MAX_DOCUMENTS refuses it."""


def serve(settings: Settings, file: Path | None = None) -> None:
    """Run the stack until INT or TERM.

    Args:
        settings: the stack's.
        file: the settings file, for the programs to read, too.

    Raises:
        SetupError: it can't start, or a program was given up.
    """
    nginx, console = preflight.find_nginx(), Console(settings)
    preflight.check_program(ROOT, sys.executable, nginx)
    console.never_wait()
    for directory in (settings.run_dir, settings.run_dir / "nginx", settings.log_dir):
        preflight.make_private(directory)
    with preflight.writing_to(settings.state_dir):
        lock_file = lock_run_dir(settings, console.say)
    _check(settings, console)
    signals = Signals()
    with preflight.writing_to(settings.state_dir):
        colors = resume(settings)
    _prepare(colors.serving.settings, console, signals)
    if signals.stops:
        lock_file.close()
        return
    with preflight.writing_to(settings.state_dir):
        _clean(settings)  # what a killed predecessor left; the lock says that nobody uses it
        _write_run_dir(settings, nginx, console)
        point(settings.run_dir, colors.active)
    served = settings_with(colors.serving.settings)
    metrics_dir = multiprocess.folder(settings.state_dir, settings.color)
    processes.adopt_orphans()
    multiprocess.clear(metrics_dir)
    supervisord = subprocess.Popen(
        [*WITH_PARENT, *console.supervisord(), "-c", str(ROOT / "supervisor" / "supervisord.conf")],
        env=_environment(settings, file, nginx, colors.active),
        stdout=console.stdout,
        start_new_session=True,  # Ctrl-C comes to us alone, and we stop things in order
        pass_fds=[lock_file.fileno()],  # should we be killed, the lock is free when it has stopped everything
    )
    signals.forward_to(supervisord)
    ready, repair = False, Repair(settings, colors, console.say)
    shutdown = NginxShutdown(settings.run_dir, partial(_nginx_of, supervisord.pid))  # now: `run` may be removed later
    try:
        _check_artifact(served)
        ready = _wait_until_ready(settings, console, supervisord, signals, program_of(colors.active))
        if ready:
            wait_until(lambda: _has_pusher(settings) or signals.stops > 0, PUSHER_WAIT_S)
            repair.step()
            _announce(settings, console)
            start_if_due(served, Programs(settings.run_dir))
            replace_hung(settings, console.say)
        code = _wait_for_end(settings, supervisord, signals, lock_file, repair)
    finally:
        stop_s = settings.request_timeout_s + STOP_GRACE_S
        _end(supervisord, stop_s if ready else STOP_GRACE_S, shutdown)
        processes.end_orphans(supervisord.pid, stop_s, lambda: signals.stops > 1, shutdown.step)
        shutil.rmtree(metrics_dir, ignore_errors=True)
        given_up = _given_up(settings.run_dir / GIVEN_UP)
        _clean(settings)
        lock_file.close()
    if given_up:
        outcome = "was given up" if ready else "does not start"
        raise SetupError(f"{given_up} {outcome}; see {console.where(given_up)}")
    if not signals.stops:
        raise SetupError(f"supervisord ended by itself with {code}; see {console.where('supervisord')}")


def reload(settings: Settings) -> None:
    """Have the programs read key file and certificate again. What is wrong there is logged, and they go on."""
    try:
        publish_certificate(settings)
    except (SetupError, OSError) as error:  # such as a full disk, where one of ours was to be made anew
        log.error("%s; nginx keeps the certificate that it has", error)  # noqa: TRY400 - the message says it all
    programs = Programs(settings.run_dir)
    for name in RELOADED:
        with contextlib.suppress(SetupError):  # it is not running, and will read when it starts
            programs.signal(name, "HUP")


def _check(settings: Settings, console: Console) -> None:
    """Check ports, keys, cards and certificate, while an operator is there to read what is wrong.

    Raises:
        SetupError: one of them can't be used.
    """
    for port in filter(None, (settings.port, settings.plain_port)):
        preflight.check_port(settings, port)
    preflight.check_keys(settings)
    preflight.check_pusher(settings)
    preflight.check_cards(settings)
    prepare_certificate(settings)
    if problem := webroot_problem(settings):
        console.say(problem)


def _environment(settings: Settings, file: Path | None, nginx: str, active: str) -> dict[str, str]:
    """Return the environment of supervisord and its programs; supervisord.conf uses the STACK_* variables."""
    socket_mode, socket_owner = preflight.socket_access(settings)
    return {
        **{name: value for name, value in os.environ.items() if name != NOTIFY_VARIABLE},
        # All programs see the same settings, wherever they run; the flags are in the environment already.
        "RERANK_STATE_DIR": str(settings.state_dir),
        **({"RERANK_API_KEYS_FILE": settings.api_keys_file} if settings.api_keys_file else {}),  # absolute
        FILE_VARIABLE: str(file or ""),
        "RERANK_LOG_FORMAT": "json",  # supervisord brings all lines into the form that was chosen
        "STACK_ROOT": str(ROOT),
        "STACK_VERSION": __version__,
        "STACK_PYTHON": sys.executable,
        "STACK_NGINX": nginx,
        "STACK_UID": str(os.getuid()),
        **{f"STACK_START_{color.upper()}": str(color == active) for color in COLORS},
        "STACK_PUSHERS": "0" if settings.pusher_url else "1",
        "STACK_PUSHER_SOCKET": "" if settings.pusher_url else str(settings.pusher_socket),
        "STACK_SOCKET_MODE": socket_mode,
        "STACK_SOCKET_OWNER": socket_owner,
        "STACK_STOP_WAIT_S": str(settings.request_timeout_s + STOP_GRACE_S),
        multiprocess.VARIABLE: str(multiprocess.folder(settings.state_dir, settings.color)),
    }


def _clean(settings: Settings) -> None:
    """Remove files of programs that have ended."""
    files = (settings.run_dir / GIVEN_UP, settings.run_dir / ADDRESS, settings.own_key, settings.draining_file)
    for stale in (*settings.run_dir.glob("*.sock*"), *files):
        stale.unlink(missing_ok=True)
    for folder in (settings.run_dir / SPARE, served_certificate(settings).parent):
        shutil.rmtree(folder, ignore_errors=True)


def _write_run_dir(settings: Settings, nginx: str, console: Console) -> None:
    """Write the files that our programs and commands read there."""
    found = inspect_nginx(nginx)
    if found.stream is None:
        console.say(WITHOUT_STREAM)
    (settings.run_dir / "nginx.conf").write_text(nginx_conf(settings, found))
    make_own(settings.own_key)
    publish_certificate(settings)
    note_address(settings)


def _tell_systemd() -> None:
    """Tell systemd that we are ready, if it runs us as a service of type notify; see sd_notify(3)."""
    if address := os.environ.get(NOTIFY_VARIABLE):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", address.replace("@", "\0", 1) if address.startswith("@") else address)


def _prepare(release: Mapping[str, str], console: Console, signals: Signals) -> None:
    """Prepare the model in a process of its own, so that torch and its memory are gone when it ends."""
    served = settings_with(release)
    if served.engine == "stub" or (artifact_dir(served) / MANIFEST).exists():
        return
    preflight.make_private(served.models_dir)  # not before: in an image it may be read-only
    with environment(release):
        preparing = console.start(program("webapp", "prepare"))
    signals.forward_to(preparing)
    console.relay(preparing)
    if preparing.wait() and not signals.stops:
        raise SystemExit(preparing.returncode)  # it printed why


def _check_artifact(served: Settings) -> None:
    """Say at once what gunicorn's log would: the artifact is damaged, or the operator's instruction does not fit it."""
    directory = artifact_dir(served)
    manifest = read_served(directory, served)
    if manifest is not None and served.instruction.strip():
        from webapp.engine.loader import check_instruction  # noqa: PLC0415 - it takes numpy and a tokenizer

        check_instruction(directory, manifest, served)


def _wait_until_ready(
    settings: Settings, console: Console, supervisord: subprocess.Popen[bytes], signals: Signals, program: str
) -> bool:
    """Wait for a first real score through nginx; return False if asked to stop or supervisord ended meanwhile."""

    def is_over() -> bool:
        return signals.stops > 0 or supervisord.poll() is not None

    if not wait_until(lambda: is_over() or _rerank_works(settings), READY_TIMEOUT_S):
        raise SetupError(f"the service was not ready within {READY_TIMEOUT_S:g} s; see {console.where(program)}")
    return not is_over()


def _rerank_works(settings: Settings) -> bool:
    if not (settings.run_dir / FALLBACK).exists():  # the active color's; before, a request would only fill nginx' log
        return False
    try:
        ask(settings, "/ready", timeout_s=5).close()
        with ask(settings, "/rerank", _FIRST_REQUEST, timeout_s=30):
            return True
    except OSError:
        return False


def _given_up(path: Path) -> str:
    """Return the program that supervisord gave up, and ended for; see `webapp.stack.supervisor.plugin`."""
    return path.read_text() if path.exists() else ""


def _wait_for_end(
    settings: Settings, supervisord: subprocess.Popen[bytes], signals: Signals, lock_file: IO[str], repair: Repair
) -> int:
    while True:
        try:
            return supervisord.wait(timeout=1)
        except subprocess.TimeoutExpired:
            processes.reap(supervisord.pid)
            if signals.reload and not signals.stops:
                signals.reload = False
                reload(settings)
            if signals.stops:
                # A QUIT that comes while nginx starts is noted but acted on only at the next signal.
                with contextlib.suppress(OSError, ValueError):
                    os.kill(int((settings.run_dir / "nginx.pid").read_text()), signal.SIGQUIT)
            elif is_removed(lock_file):
                # The sockets are gone with it: only connections that are open still work, and not for long.
                raise SetupError(f"{settings.run_dir} was removed; start again, which makes it anew") from None
            else:
                repair.step()


def _has_pusher(settings: Settings) -> bool:
    return bool(settings.pusher_url) or settings.pusher_socket.exists()


def _announce(settings: Settings, console: Console) -> None:
    console.say(f"Ready: {url_of(settings)} serves {_what_serves(settings)}")
    console.say(f"Dashboard: {url_of(settings)}/dashboard/")
    console.say(f"Started in {time.monotonic() - _BEGAN:.0f} s")
    _tell_systemd()


def _what_serves(settings: Settings) -> str:
    """Return the model by the service's /info; one request that fails is no reason to end a stack that serves."""
    try:
        with ask(settings, "/info", timeout_s=5) as reply:
            info = json.load(reply)
        substitute = f" in place of {info['substitute_for']}, which can't be fetched" if info["substitute_for"] else ""
        return f"{info['model']} ({info['engine']} {info['precision']}){substitute}"
    except (OSError, HTTPException, ValueError, KeyError):
        return f"a model; {url_of(settings)}/info says which"


def _end(supervisord: subprocess.Popen[bytes], timeout_s: float, shutdown: NginxShutdown) -> None:
    """End supervisord and its programs, whatever happened; admitted requests are finished, unless the time is over."""
    if supervisord.poll() is None:
        supervisord.terminate()
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisord.wait(POLL_S)
                return
            shutdown.step()
        processes.kill_groups(children(supervisord.pid))
        supervisord.kill()
        supervisord.wait()


def _nginx_of(supervisord: int) -> int:
    """Return the pid of nginx' master; 0 if there is none."""
    return next((pid for pid in children(supervisord) if command_line(pid).startswith(b"nginx: master")), 0)
