"""Programs beside the service that run and do not answer: the pusher and the exporter of metrics.

Supervisor starts again what has ended. What is stopped by a signal, or stuck, has not: it is ended here.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.stack.local_client import UnixConnection
from webapp.stack.supervisor.client import Programs

EVERY_S = 10.0

PATIENCE_S = 5.0

MISSES = 4
"""A program that did not answer so often in a row is ended."""


def hung(settings: Settings, patience_s: float = PATIENCE_S) -> list[str]:
    """Return the programs that take a connection and say nothing. One that is not there is supervisor's to start."""
    asked = {"pusher": (settings.pusher_socket, "/figures"), "metrics": (settings.metrics_socket, "/metrics")}
    return [name for name, (address, path) in asked.items() if _says_nothing(address, path, patience_s)]


def _says_nothing(address: Path, path: str, patience_s: float) -> bool:
    with contextlib.closing(UnixConnection(address, patience_s)) as connection:
        try:
            connection.request("GET", path)
            connection.getresponse()
        except (TimeoutError, BlockingIOError):  # the latter: so many wait already that no more are taken
            return True
        except (OSError, http.client.HTTPException):
            return False
        return False


class Misses:
    """Counts how often in a row a program did not answer, and ends it in the end."""

    def __init__(self, look: Callable[[], Iterable[str]], end: Callable[[str], None]) -> None:
        self._look = look
        self._end = end
        self._misses: Counter[str] = Counter()

    def step(self) -> None:
        """Look once."""
        self._misses = Counter({name: self._misses[name] + 1 for name in self._look()})
        for name in [name for name, misses in self._misses.items() if misses >= MISSES]:
            del self._misses[name]
            self._end(name)


def replace_hung(settings: Settings, say: Callable[[str], None]) -> None:
    """Begin to end programs that hang, so that supervisor starts them again. On a thread, as long as the stack runs."""
    programs = Programs(settings.run_dir)

    def end(name: str) -> None:
        with contextlib.suppress(SetupError, OSError):
            if pid := programs.of(name).pid:
                say(f"{name} does not answer: it is ended, and supervisor starts it again")
                os.kill(pid, signal.SIGKILL)  # one that is stopped hears nothing else

    misses = Misses(partial(hung, settings), end)

    def run() -> None:
        while True:
            time.sleep(EVERY_S)
            misses.step()

    threading.Thread(target=run, daemon=True, name="hangs").start()
