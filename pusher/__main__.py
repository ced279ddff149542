"""`python -m pusher [LISTEN EVENTS_LISTEN]`: the composition root.

The monkey patch comes first, before anything imports a socket. `pusher/settings.py` has the arguments.
"""

import os

# The cores are the engine's, also while a restarted pusher loads: a browser that waits a little longer is no harm.
os.nice(10)
os.umask(0o077)  # its sockets and its state file are for this user alone

from gevent import events, monkey  # noqa: E402

events.notify_and_call_entry_points = events.notify  # as in gunicorn_config.py
monkey.patch_all()

import signal  # noqa: E402
import sys  # noqa: E402

# python-socketio loads these where others have installed them, for clients and for sharing among servers: a quarter of
# a second, and memory. None in their place is an ImportError, for which it is prepared.
for unused in ("redis", "requests", "websocket"):
    sys.modules[unused] = None  # type: ignore[assignment] # as Python's manual of the import system has it

import gevent  # noqa: E402

from contracts.logging.configure import configure  # noqa: E402
from pusher.server import Pusher  # noqa: E402
from pusher.settings import load_settings  # noqa: E402


def main() -> None:
    """Serve until TERM or INT."""
    settings = load_settings(sys.argv[1:])
    configure(level=settings.log_level, log_format=settings.log_format, service="pusher", color=settings.color)
    settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    pusher = Pusher(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, pusher.stop)
    gevent.signal_handler(signal.SIGHUP, pusher.reload_keys)
    pusher.reload_keys()  # keys may have changed since they were read, and the HUP for them came too early
    pusher.run()


if __name__ == "__main__":
    main()
