"""A worker's vital signs, once a second."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from contracts.events import Pulse, Serves

_STATM = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What a pulse is made from: levels as they are now, and totals since the worker started."""

    state: Literal["loading", "ready", "draining"]
    in_flight: int
    queue_pairs: int
    queue_tokens: int
    scored_pairs: int
    batches: int
    batch_tokens: int
    """Padded tokens of all batches."""
    budget_tokens: int
    """What one batch may hold."""
    body_memory_bytes: int = 0
    """Charged for large bodies."""
    cache_hits: int = 0
    cache_misses: int = 0
    breaker: Literal["closed", "open", "half_open"] = "closed"
    degraded: bool = False
    breaker_opened: int = 0
    cache_bytes: int = 0
    engine_failures: int = 0
    events_published: int = 0
    events_dropped: int = 0
    shapes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """(rows, padded length) -> batches of it."""


class StatsSampler:
    """Turns vitals into pulses; keeps the last ones, for rates."""

    def __init__(
        self,
        read: Callable[[], WorkerStats],
        *,
        serves: Serves | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._serves = serves
        self._clock = clock
        self._last: WorkerStats | None = None
        self._last_at = clock()

    def make(self, *, hub_lag_ms: float, dropped_events: int) -> Pulse:
        """A pulse of the time since the last one."""
        now, vitals = self._clock(), self._read()
        last = self._last or vitals
        seconds = max(now - self._last_at, 1e-3)
        self._last, self._last_at = vitals, now
        batches = vitals.batches - last.batches
        hits, misses = vitals.cache_hits - last.cache_hits, vitals.cache_misses - last.cache_misses
        room = batches * vitals.budget_tokens
        return Pulse(
            state=vitals.state,
            queue_pairs=vitals.queue_pairs,
            queue_tokens=vitals.queue_tokens,
            in_flight=vitals.in_flight,
            pairs_per_s=round((vitals.scored_pairs - last.scored_pairs) / seconds, 2),
            batch_fill=round(min((vitals.batch_tokens - last.batch_tokens) / room, 1.0), 4) if room else None,
            cache_hit_ratio=round(hits / (hits + misses), 4) if hits + misses else None,
            breaker=vitals.breaker,
            degraded=vitals.degraded,
            hub_lag_ms=round(hub_lag_ms, 1),
            rss_bytes=rss_bytes(),
            dropped_events=dropped_events,
            serves=self._serves,
        )


def rss_bytes() -> int:
    """Resident memory of this process, shared pages counted."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
