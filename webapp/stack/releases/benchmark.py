"""Measure two engines in turn while the service is idle, and say which one is faster. It knows no engine."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from webapp.domain.errors import SetupError
from webapp.stack.local_client import ask_socket

if TYPE_CHECKING:
    from webapp.engine.prepare.autotune import Speed

IDLE_S = 10.0
"""A service without a request for this long is idle."""

POLL_S = 1.0

SETTLE_S = 1.5
"""Workers write their metrics once a second; after this, the last second's requests are known."""

TIMEOUT_S = 5.0

ROUNDS = 7

MARGIN = 1.1
"""A rival must be this many times as fast, by the median of all rounds and in `MOST` of them; else nothing changes."""

MOST = 5

LEAST_SHARE = 0.8
"""A round counts only if each engine got this share of its cores; else other programs were at work."""

MOST_DISTURBED = 30
"""Rounds in a row that did not count, after which the benchmark gives up."""

Measure = Callable[[], "Speed"]
"""Measures one engine for a moment."""


class BusyError(SetupError):
    """Other programs leave the machine no quiet moment."""


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


@dataclass(frozen=True, slots=True)
class Outcome:
    """Speeds of the engine that serves and of its rival in tokens/s, a pair a round."""

    rounds: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> list[float]:
        """Return the rival's speed over the serving engine's, round by round."""
        return [rival / serving for serving, rival in self.rounds]

    @property
    def won(self) -> int:
        """Return the number of rounds that the rival won by the margin."""
        return sum(ratio >= MARGIN for ratio in self.ratios)

    @property
    def rival_is_faster(self) -> bool:
        """Return whether a change pays, and was not measured by chance."""
        return statistics.median(self.ratios) >= MARGIN and self.won >= MOST

    def summary(self, serving: str, rival: str) -> str:
        """Return the outcome in words."""
        speed, rival_speed = (round(statistics.median(speeds)) for speeds in zip(*self.rounds, strict=True))
        return (
            f"compared: {rival} {statistics.median(self.ratios):.2f} times {serving} ({rival_speed:,} and {speed:,}"
            f" tokens a second; more than {MARGIN:g} times as fast in {self.won} of {len(self.rounds)} rounds)"
        )


def measure_in_turn(serving: Measure, rival: Measure, idle: IdleDetector) -> Outcome:
    """Measure A B A B ... while the service is idle; discard and repeat a disturbed round.

    Raises:
        BusyError: other programs leave no quiet moment.
    """
    idle.wait()
    serving()  # the first time compiles for new shapes
    rival()
    rounds: list[tuple[float, float]] = []
    disturbed = 0
    while len(rounds) < ROUNDS:
        idle.wait()
        one, other = serving(), rival()
        if not idle.lasted():
            continue
        if min(one.share, other.share) >= LEAST_SHARE:
            disturbed = 0
            rounds.append((one.tokens_per_s, other.tokens_per_s))
            continue
        disturbed += 1
        if disturbed >= MOST_DISTURBED:
            raise BusyError("other programs on this machine leave no quiet moment to measure in")
    return Outcome(tuple(rounds))
