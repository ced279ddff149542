"""What one worker reports, and when: a flush every 50 ms, progress every 250 ms, a pulse every second."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Literal

from contracts.events import Worker
from webapp.telemetry.progress import ProgressEvents
from webapp.telemetry.publisher import Publisher
from webapp.telemetry.worker_stats import StatsSampler

log = logging.getLogger(__name__)

FLUSH_S = 0.05
PROGRESS_S = 0.25
PULSE_S = 1.0


class Reporter:
    """Drives progress, pulse and publisher from one greenlet."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        progress: ProgressEvents,
        pulse: StatsSampler,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher = publisher
        self._progress = progress
        self._pulse = pulse
        self._clock = clock
        self._next_progress = self._next_pulse = clock()
        self._hub_lag_s = 0.0
        self._failures = 0

    def start(self, repeat: Callable[[float, Callable[[], None]], None]) -> None:
        """Connect, and have `step` called every `FLUSH_S` by `repeat`. After the fork."""
        self._publisher.start()
        self.tell("loading")
        self._expected = self._clock() + FLUSH_S
        repeat(FLUSH_S, self.step)

    def tell(self, state: Literal["loading", "ready", "draining"]) -> None:
        """The worker's state changed. Only keeps an event, so a signal handler may call it."""
        self._publisher.publish(Worker(state=state))

    def step(self) -> None:
        """Do what is due; never raises."""
        now = self._clock()
        # We asked to be called at a certain time; what we are late is what every greenlet is late.
        self._hub_lag_s = max(self._hub_lag_s, now - self._expected)
        self._expected = now + FLUSH_S
        try:
            self._progress.tell_new()
            if now >= self._next_progress:
                self._next_progress = now + PROGRESS_S
                self._progress.tick()
            if now >= self._next_pulse:
                self._next_pulse = now + PULSE_S
                lag_ms, self._hub_lag_s = self._hub_lag_s * 1000, 0.0
                self._publisher.publish(self._pulse.make(hub_lag_ms=lag_ms, dropped_events=self._publisher.dropped))
            self._publisher.flush()
        except Exception:
            self._failures += 1
            if self._failures == 1:
                log.exception("progress could not be reported; requests go on without it")

    def stop(self) -> None:
        """Say that the worker goes down."""
        with contextlib.suppress(Exception):
            self._publisher.publish(Worker(state="down"))
            self._publisher.close()
