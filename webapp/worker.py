"""gunicorn's gevent worker, told when to be ready and when to leave."""

from __future__ import annotations

import gc
import os
from typing import TYPE_CHECKING, Any

from gunicorn.workers.ggevent import GeventWorker

if TYPE_CHECKING:
    from webapp.bootstrap import Webapp

BOOT_FAILED = 3
"""gunicorn's WORKER_BOOT_ERROR: the master gives up, and supervisor says so, instead of forking in a loop."""


class Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """One process of the webapp."""

    @property
    def webapp(self) -> Webapp:
        """What the master assembled; gunicorn loads this class before it does so."""
        from webapp.wsgi import webapp  # noqa: PLC0415

        return webapp

    def init_process(self) -> None:
        """Runs in the child, after the fork and before it serves."""
        # What the master made stays shared: the collector won't write into its pages.
        gc.freeze()
        super().init_process()

    def run(self) -> None:
        """Start the engine beside the server, and end it after."""
        self.webapp.start(self._started)
        try:
            super().run()
        finally:
            self.webapp.stop()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """TERM: not ready from now on; admitted requests finish."""
        self.webapp.service.drain()
        super().handle_exit(sig, frame)

    def _started(self, result: float | Exception) -> None:
        if isinstance(result, Exception):
            self.log.critical("the engine did not start", exc_info=result)
            os._exit(BOOT_FAILED)  # from a greenlet, sys.exit would end only that
        self.log.info("ready after %.2f s", result)
