"""How one worker is, read once a second: for metrics, and for the pusher."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from contracts.events import Pulse, Serves, Worker
from webapp.domain.types import ModelInfo
from webapp.telemetry.metrics import Metrics
from webapp.telemetry.progress import ProgressEvents
from webapp.telemetry.publisher import Publisher

log = logging.getLogger(__name__)

STEP_S = 0.05
"""Between two flushes of events, and two looks at how late the event loop is."""

PROGRESS_S = 0.25
SAMPLE_S = 1.0

LAG_SAMPLES = 15
"""The lag in metrics is the largest of so many samples, so that scrapes miss none."""

_STATM = Path("/proc/self/statm")
_FDS = Path("/proc/self/fd")


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What metrics and pulses are made from: levels as they are now, and totals since the worker started."""

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
    model: ModelInfo | None
    """None: it is not shown. No default, so that no caller forgets it."""
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
    hub_lag_s: float = 0.0
    """The longest that the event loop was late since the last sample."""
    longest_hub_lag_s: float = 0.0
    """The same of the last `LAG_SAMPLES` samples."""
    pid: int = field(default_factory=os.getpid)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of this process, at the moment."""
        return rss_bytes()

    @property
    def open_fds(self) -> int:
        """Open file descriptors of this process, at the moment."""
        return sum(1 for _ in _FDS.iterdir())


def rss_bytes() -> int:
    """Return the resident memory of this process, shared pages counted."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class PulseMaker:
    """Turns stats into pulses; keeps the last ones, for rates."""

    def __init__(self, serves: Serves | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._serves = serves
        self._clock = clock
        self._last: WorkerStats | None = None
        self._last_at = clock()

    def make(self, stats: WorkerStats) -> Pulse:
        """Return a pulse of the time since the last one."""
        now, last = self._clock(), self._last or stats
        seconds = max(now - self._last_at, 1e-3)
        self._last, self._last_at = stats, now
        hits, misses = stats.cache_hits - last.cache_hits, stats.cache_misses - last.cache_misses
        room = (stats.batches - last.batches) * stats.budget_tokens
        return Pulse(
            state=stats.state,
            queue_pairs=stats.queue_pairs,
            queue_tokens=stats.queue_tokens,
            in_flight=stats.in_flight,
            pairs_per_s=round((stats.scored_pairs - last.scored_pairs) / seconds, 2),
            batch_fill=round(min((stats.batch_tokens - last.batch_tokens) / room, 1.0), 4) if room else None,
            cache_hit_ratio=round(hits / (hits + misses), 4) if hits + misses else None,
            breaker=stats.breaker,
            degraded=stats.degraded,
            hub_lag_ms=round(stats.hub_lag_s * 1000, 1),
            rss_bytes=stats.rss_bytes,
            dropped_events=stats.events_dropped,
            serves=self._serves,
        )


class Reporter:
    """Reports how one worker is, from one greenlet: metrics each second and, where there is a pusher, events.

    Args:
        read: the worker's stats, as they are now.
        metrics: of this process.
        publisher: to the pusher; None: there is none.
        progress: of running requests.
        serves: what pulses say of the model.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        read: Callable[[], WorkerStats],
        metrics: Metrics,
        *,
        publisher: Publisher | None = None,
        progress: ProgressEvents | None = None,
        serves: Serves | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._metrics = metrics
        self._publisher = publisher
        self._progress = progress
        self._pulses = PulseMaker(serves, clock=clock)
        self._clock = clock
        self._lag_s = 0.0
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)
        self._failed: set[str] = set()
        """Messages that were logged."""

    def start(self, repeat: Callable[[float, Callable[[], None]], None]) -> None:
        """Connect, sample once, and have `step` called by `repeat` every `STEP_S`. After the fork."""
        now = self._clock()
        self._expected, self._next_progress, self._next_sample = now + STEP_S, now, now + SAMPLE_S
        if self._publisher is not None:
            self._publisher.start()
            self.publish_state("loading")
        self._sample()
        repeat(STEP_S, self.step)

    def publish_state(self, state: Literal["loading", "ready", "draining"]) -> None:
        """Publish that the worker's state changed. Only keeps an event, so a signal handler may call it."""
        if self._publisher is not None:
            self._publisher.publish(Worker(state=state))

    def step(self) -> None:
        """Do what is due; never raises."""
        now = self._clock()
        # We asked to be called at a certain time; what we are late is what every greenlet is late.
        self._lag_s = max(self._lag_s, now - self._expected)
        self._expected = now + STEP_S
        if now >= self._next_sample:
            self._next_sample = now + SAMPLE_S
            self._sample()
        with self._guarded("progress could not be reported; requests go on without it"):
            self._report(now)

    def stop(self) -> None:
        """Sample a last time, and publish that the worker goes down; never raises."""
        self._sample()
        if self._publisher is not None:
            with contextlib.suppress(Exception):
                self._publisher.publish(Worker(state="down"))
                self._publisher.close()

    def _sample(self) -> None:
        self._lags.append(self._lag_s)
        self._lag_s = 0.0
        with self._guarded("metrics could not be sampled; requests go on without them"):
            stats = replace(self._read(), hub_lag_s=self._lags[-1], longest_hub_lag_s=max(self._lags))
            self._metrics.sample(stats)
            if self._publisher is not None:  # last: it reads /proc, and fails without a free descriptor
                self._publisher.publish(self._pulses.make(stats))

    def _report(self, now: float) -> None:
        if self._publisher is None or self._progress is None:
            return
        self._progress.publish_new()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_S
            self._progress.tick()
        self._publisher.flush()

    @contextlib.contextmanager
    def _guarded(self, message: str) -> Iterator[None]:
        """Log the first of these failures: thousands would only fill the log."""
        try:
            yield
        except Exception:
            if message not in self._failed:
                self._failed.add(message)
                log.exception(message)
