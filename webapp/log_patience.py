"""For supervisord a log that can't be written is no reason to fail. Runs inside its process, see `webapp.supervision`.

As it comes, one write on a full disk ends the reading of a program's output for good, and a traceback that finds no
room itself ends supervisord, and so the service. Here the lines are lost, once a minute somebody is told, and when
there is room again the log goes on.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from supervisor import loggers

TELL_EVERY_S = 60.0


class Patience:
    """Stands around a log handler's methods."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tell_at = clock()

    def emit(self, emit: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        """Write a record, or lose it."""

        def emit_or_lose(handler: Any, record: Any) -> None:
            try:
                if handler.stream.closed:  # a rotation failed half-way
                    handler.stream = open(handler.baseFilename, handler.mode)  # noqa: PTH123, SIM115 - as supervisor
                emit(handler, record)
            except OSError as error:
                self.tell(handler, error)

        return emit_or_lose

    def close(self, close: Callable[[Any], None]) -> Callable[[Any], None]:
        """Close, whatever could not be written."""

        def close_anyway(handler: Any) -> None:
            with contextlib.suppress(OSError):
                close(handler)

        return close_anyway

    def handle_error(self) -> Callable[[Any], None]:
        """What becomes of a record that could not be written."""
        return lambda handler: self.tell(handler, sys.exception())

    def tell(self, handler: Any, error: BaseException | None) -> None:
        """A line for whoever started us."""
        if self._clock() < self._tell_at:
            return
        self._tell_at = self._clock() + TELL_EVERY_S
        log = getattr(handler, "baseFilename", "a log")
        with contextlib.suppress(OSError, ValueError):
            print(f"{log} can't be written ({error}): lines are lost, the service goes on", file=sys.stderr, flush=True)


def have_patience() -> None:
    """For all logs of this process."""
    patience = Patience()
    loggers.Handler.handleError = patience.handle_error()
    loggers.RotatingFileHandler.emit = patience.emit(loggers.RotatingFileHandler.emit)
    loggers.FileHandler.close = patience.close(loggers.FileHandler.close)
