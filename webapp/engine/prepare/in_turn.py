"""Measure two engines in turn, and say which one is faster. It knows no engine, and loads no library."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from webapp.domain.errors import SetupError

if TYPE_CHECKING:
    from webapp.engine.prepare.autotune import Speed

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


class Quiet(Protocol):
    """Waits for a moment in which nobody else needs the machine."""

    def wait(self) -> None:
        """Return when one has come."""

    def lasted(self) -> bool:
        """Return whether it has lasted since `wait` returned."""


class AlwaysQuiet:
    """A machine that nobody else needs."""

    def wait(self) -> None:
        """Return at once."""

    def lasted(self) -> bool:
        """Return True."""
        return True


@dataclass(frozen=True, slots=True)
class Outcome:
    """Speeds of an engine and of its rival in tokens/s, a pair a round."""

    rounds: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> list[float]:
        """Return the rival's speed over the engine's, round by round."""
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


def measure_in_turn(serving: Measure, rival: Measure, quiet: Quiet) -> Outcome:
    """Measure A B A B ... in quiet moments; discard and repeat a disturbed round.

    Raises:
        BusyError: other programs leave no quiet moment.
    """
    quiet.wait()
    serving()  # the first time compiles for new shapes
    rival()
    rounds: list[tuple[float, float]] = []
    disturbed = 0
    while len(rounds) < ROUNDS:
        quiet.wait()
        one, other = serving(), rival()
        if not quiet.lasted():
            continue
        if min(one.share, other.share) >= LEAST_SHARE:
            disturbed = 0
            rounds.append((one.tokens_per_s, other.tokens_per_s))
            continue
        disturbed += 1
        if disturbed >= MOST_DISTURBED:
            raise BusyError("other programs on this machine leave no quiet moment to measure in")
    return Outcome(tuple(rounds))
