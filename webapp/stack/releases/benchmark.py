"""Tell whether the service is idle, by its own metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from webapp.stack.local_client import ask_socket

IDLE_S = 10.0
"""A service without a request for this long is idle."""

POLL_S = 1.0

SETTLE_S = 1.5
"""Workers write their metrics once a second; after this, the last second's requests are known."""

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """Sums over all workers."""

    at_work: float
    """Requests at work and pairs in queues."""
    done: float
    """Requests that were answered."""


UNKNOWN = Load(at_work=1, done=-1)
"""The exporter does not answer; this does not count as idle."""


def read_load(socket: Path) -> Load:
    """Return the load that the exporter of metrics knows; `UNKNOWN` where it does not answer."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - a deploy needs none of it

    with contextlib.suppress(OSError, ValueError):
        text = ask_socket(socket, "/metrics", timeout_s=TIMEOUT_S).body.decode()
        sums = {"rerank_active_requests": 0.0, "rerank_queue_pairs": 0.0, "rerank_document_count_count": 0.0}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in sums:
                    sums[sample.name] += sample.value
        active, queued, done = sums.values()
        return Load(at_work=active + queued, done=done)
    return UNKNOWN


class IdleDetector:
    """Waits until the service is idle, and says whether it has stayed so."""

    def __init__(
        self,
        read: Callable[[], Load],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._read = read
        self._clock = clock
        self._sleep = sleep
        self._seen = read()
        self._since = clock()

    def wait(self) -> None:
        """Return when no request has been at work for `IDLE_S`."""
        while not self._is_unchanged() or self._clock() - self._since < IDLE_S:
            self._sleep(POLL_S)

    def lasted(self) -> bool:
        """Return whether no request has come since `wait` returned."""
        self._sleep(SETTLE_S)
        return self._is_unchanged()

    def _is_unchanged(self) -> bool:
        now = self._read()
        unchanged = now == self._seen and not now.at_work
        if not unchanged:
            self._seen, self._since = now, self._clock()
        return unchanged
