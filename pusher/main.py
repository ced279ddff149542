"""`python -m pusher`: the composition root. The monkey patch comes first, before anything imports a socket."""

import os

# The cores are the engine's, also while a restarted pusher loads: a browser that waits a little longer is no harm.
os.nice(10)

from gevent import monkey  # noqa: E402

monkey.patch_all()

import logging  # noqa: E402
import signal  # noqa: E402

import gevent  # noqa: E402

from pusher.server import Pusher  # noqa: E402
from pusher.settings import Settings  # noqa: E402


def main() -> None:
    """Serve until TERM or INT."""
    settings = Settings()
    _log_as_json(settings.log_level)
    settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    pusher = Pusher(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, pusher.stop)
    pusher.run()


def _log_as_json(level: str) -> None:
    """The shape of all our logs; ours is the only process that can't use `webapp.telemetry.log`."""
    import structlog  # noqa: PLC0415

    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                structlog.processors.EventRenamer("message"),
                lambda _logger, _method, event: {**event, "service": "pusher", "pid": os.getpid()},
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
