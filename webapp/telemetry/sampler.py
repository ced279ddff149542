"""A worker's levels and totals -> metrics, once a second."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from webapp import __version__
from webapp.domain.types import ModelInfo
from webapp.telemetry.histogram import BATCH_PAIRS, BATCH_TOKENS, SHARES, BucketCounts
from webapp.telemetry.meter import Meter
from webapp.telemetry.metrics import BREAKER, STATES, Metrics
from webapp.telemetry.worker_stats import WorkerStats, rss_bytes

_FDS = Path("/proc/self/fd")

log = logging.getLogger(__name__)

STEP_S = 0.1
"""How often the sampler wakes, to see how late it is."""

SAMPLE_S = 1.0

LAG_WINDOW_S = 15
"""The lag that is shown is the largest of so many samples, so that scrapes miss none."""


class Sampler:
    """Driven from one greenlet."""

    def __init__(
        self,
        metrics: Metrics,
        meter: Meter,
        model: ModelInfo,
        read: Callable[[], WorkerStats],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._meter = meter
        self._model = model
        self._read = read
        self._clock = clock
        self._last: dict[str, int] = {}
        self._shapes: Mapping[tuple[int, int], int] = {}
        self._pairs, self._tokens, self._fill = (
            BucketCounts(BATCH_PAIRS),
            BucketCounts(BATCH_TOKENS),
            BucketCounts(SHARES),
        )
        self._lag_s = 0.0
        self._lags: deque[float] = deque(maxlen=LAG_WINDOW_S)
        self._failures = 0

    def start(self, repeat: Callable[[float, Callable[[], None]], None]) -> None:
        """Sample once, and have `step` called by `repeat` from then on. After the fork."""
        model = self._model
        labels = (model.model, model.revision, model.engine, model.precision, __version__)
        self._metrics.model_info.labels(*labels).set(1)
        self._metrics.worker_starts.inc()
        now = self._clock()
        self._expected, self._due = now + STEP_S, now + SAMPLE_S
        self.sample()
        repeat(STEP_S, self.step)

    def step(self) -> None:
        """Do what is due; never raises."""
        now = self._clock()
        self._lag_s = max(self._lag_s, now - self._expected)
        self._expected = now + STEP_S
        if now >= self._due:
            self._due = now + SAMPLE_S
            self.sample()

    def sample(self) -> None:
        """Publish everything as it is now; never raises."""
        try:
            self._sample()
        except Exception:
            self._failures += 1
            if self._failures == 1:
                log.exception("metrics could not be sampled; requests go on without them")

    def _sample(self) -> None:
        metrics, vitals = self._metrics, self._read()
        self._meter.publish()
        self._publish_batches(vitals)
        for counter, name in (
            (metrics.engine_errors, "engine_failures"),
            (metrics.breaker_opened, "breaker_opened"),
            (metrics.cache_hits, "cache_hits"),
            (metrics.cache_misses, "cache_misses"),
            (metrics.events_published, "events_published"),
            (metrics.events_dropped, "events_dropped"),
        ):
            total = getattr(vitals, name)
            if new := total - self._last.get(name, 0):
                counter.inc(new)
                self._last[name] = total
        metrics.active.set(vitals.in_flight)
        metrics.queue_pairs.set(vitals.queue_pairs)
        metrics.queue_tokens.set(vitals.queue_tokens)
        metrics.body_memory.set(vitals.body_memory_bytes)
        metrics.cache_bytes.set(vitals.cache_bytes)
        metrics.breaker_state.set(BREAKER[vitals.breaker])
        metrics.degraded.set(vitals.degraded)
        for state in STATES:
            metrics.workers.labels(state).set(vitals.state == state)
        self._lags.append(self._lag_s)
        self._lag_s = 0.0
        worker = str(os.getpid())
        metrics.hub_lag.labels(worker).set(max(self._lags))
        metrics.rss.labels(worker).set(rss_bytes())
        metrics.fds.labels(worker).set(sum(1 for _ in _FDS.iterdir()))

    def _publish_batches(self, vitals: WorkerStats) -> None:
        last, self._shapes = self._shapes, vitals.shapes
        for (rows, length), count in vitals.shapes.items():
            if new := count - last.get((rows, length), 0):
                self._pairs.add(rows, new)
                self._tokens.add(rows * length, new)
                # A pair that is longer than the budget makes a batch of its own.
                self._fill.add(min(rows * length / vitals.budget_tokens, 1.0), new)
        self._metrics.batch_pairs.publish(self._pairs)
        self._metrics.batch_tokens.publish(self._tokens)
        self._metrics.batch_fill.publish(self._fill)
