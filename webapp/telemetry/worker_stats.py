"""How one worker is, read once a second: for metrics, and for the pusher."""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from contracts.events import Pulse, Serves, Worker
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


class NoCache:
    """What a worker without a cache of scores has counted: nothing, whatever is asked for."""

    def __getattr__(self, _figure: str) -> int:
        return 0


_STATM = Path("/proc/self/statm")
_FDS = Path("/proc/self/fd")


@dataclass(slots=True)
class WorkerStats:
    """What metrics and pulses are read from: the parts of one worker, each with its levels and totals as they are now.

    The parts are of floors that telemetry doesn't know, so it takes them as they come.
    """

    service: Any
    """`webapp.service.reranker.RerankService`."""
    scheduler: Any
    """`webapp.scheduling.scheduler.Scheduler`."""
    publisher: Publisher
    hub_lag_s: float = 0.0
    """The longest that the event loop was late since the last sample."""
    longest_hub_lag_s: float = 0.0
    """The same of the last `LAG_SAMPLES` samples."""

    @property
    def cache(self) -> Any:
        """The cache of pair scores; one that counts nothing where there is none."""
        cache = self.service.scoring.cache
        return NoCache() if cache is None else cache

    @property
    def breaker(self) -> Any:
        """The breaker of the engine."""
        return self.service.fallback.breaker

    @property
    def pid(self) -> int:
        """Number of this process, which is another one after the fork."""
        return os.getpid()

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
    """Turns stats into pulses; keeps the last totals, for rates."""

    def __init__(self, serves: Serves | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._serves = serves
        self._clock = clock
        self._last: tuple[float, ...] = ()

    def make(self, worker: WorkerStats) -> Pulse:
        """Return a pulse of the time since the last one."""
        done, cache = worker.scheduler.totals, worker.cache
        totals = self._clock(), done.pairs, done.batches, done.batch_tokens, cache.hits, cache.misses
        last, self._last = self._last or totals, totals
        seconds, pairs, batches, tokens, hits, misses = map(operator.sub, totals, last)
        room = batches * worker.scheduler.budget_tokens
        return Pulse(
            state=worker.service.state,
            queue_pairs=worker.scheduler.queued_pairs,
            queue_tokens=worker.scheduler.queued_tokens,
            in_flight=worker.service.ongoing,
            pairs_per_s=round(pairs / max(seconds, 1e-3), 2),
            batch_fill=round(min(tokens / room, 1.0), 4) if room else None,
            cache_hit_ratio=round(hits / (hits + misses), 4) if hits + misses else None,
            breaker=worker.breaker.state,
            degraded=worker.breaker.state != "closed",
            hub_lag_ms=round(worker.hub_lag_s * 1000, 1),
            rss_bytes=worker.rss_bytes,
            dropped_events=worker.publisher.dropped,
            serves=self._serves,
        )


class Reporter:
    """Reports how one worker is, from one greenlet: metrics and a pulse each second, and events.

    Args:
        worker: whose stats are read.
        metrics: of this process.
        progress: of running requests.
        serves: what pulses say of the model.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        worker: WorkerStats,
        metrics: Metrics,
        progress: ProgressEvents,
        serves: Serves | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._metrics = metrics
        self._publisher = worker.publisher
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
        self._publisher.start()
        self.publish_state("loading")
        self._sample()
        repeat(STEP_S, self.step)

    def publish_state(self, state: Literal["loading", "ready", "draining"]) -> None:
        """Publish that the worker's state changed. Only keeps an event, so a signal handler may call it."""
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
            self._progress.publish_new()
            if now >= self._next_progress:
                self._next_progress = now + PROGRESS_S
                self._progress.tick()
            self._publisher.flush()

    def stop(self) -> None:
        """Sample a last time, and publish that the worker goes down; never raises."""
        self._sample()
        with contextlib.suppress(Exception):
            self._publisher.publish(Worker(state="down"))
            self._publisher.close()

    def _sample(self) -> None:
        self._lags.append(self._lag_s)
        self._worker.hub_lag_s, self._worker.longest_hub_lag_s = self._lag_s, max(self._lags)
        self._lag_s = 0.0
        with self._guarded("metrics could not be sampled; requests go on without them"):
            self._metrics.sample(self._worker)
            # Last: it reads /proc, and fails without a free descriptor.
            self._publisher.publish(self._pulses.make(self._worker))

    @contextlib.contextmanager
    def _guarded(self, message: str) -> Iterator[None]:
        """Log the first of these failures: thousands would only fill the log."""
        try:
            yield
        except Exception:
            if message not in self._failed:
                self._failed.add(message)
                log.exception(message)
