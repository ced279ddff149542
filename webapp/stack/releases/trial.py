"""Two engines measured in turn, and which of them is faster. Knows neither engines nor a service."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from webapp.domain.errors import SetupError

ROUNDS = 7

MARGIN = 1.1
"""A rival must be so many times as fast, by the median of all rounds and in `MOST` of them: else what serves stays."""

MOST = 5

LEAST_SHARE = 0.8
"""Of the cores an engine must have got so much; else others were at work, and the round does not count."""

MOST_DISTURBED = 30
"""Rounds in a row that did not count, after which nothing is decided."""


class BusyError(SetupError):
    """The machine has no quiet moment."""


class Speed(Protocol):
    """What a measurement found."""

    @property
    def tokens_per_s(self) -> float:
        """How fast it was."""

    @property
    def share(self) -> float:
        """Which share of the cores it got."""


Measure = Callable[[], Speed]
"""Measures one engine for a moment."""


class Idle(Protocol):
    """Tells when the service is idle."""

    def wait(self) -> None:
        """Return when it is."""

    def lasted(self) -> bool:
        """Whether it has stayed so since."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Tokens a second, a pair a round: of the engine that serves, and of its rival."""

    rounds: tuple[tuple[float, float], ...]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast the rival was, round by round."""
        return [rival / serving for serving, rival in self.rounds]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def rival_is_faster(self) -> bool:
        """Whether a change pays, and is no matter of luck."""
        return self.ratio >= MARGIN and sum(ratio >= MARGIN for ratio in self.ratios) >= MOST

    def said(self, serving: str, rival: str) -> str:
        """The outcome in words."""
        one, other = (round(statistics.median(speeds)) for speeds in zip(*self.rounds, strict=True))
        won = sum(ratio >= MARGIN for ratio in self.ratios)
        verdict = f"more than {MARGIN:g} times as fast in {won} of {len(self.rounds)} rounds"
        return f"compared: {rival} {self.ratio:.2f} times {serving} ({other:,} and {one:,} tokens a second; {verdict})"


def measure_in_turn(serving: Measure, rival: Measure, idle: Idle) -> Outcome:
    """Measure A B A B ... while the service is idle; what was disturbed is thrown away and done again.

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
        if min(one.share, other.share) < LEAST_SHARE:
            disturbed += 1
            if disturbed >= MOST_DISTURBED:
                raise BusyError("other programs on this machine leave no quiet moment to measure in")
            continue
        disturbed = 0
        rounds.append((one.tokens_per_s, other.tokens_per_s))
    return Outcome(tuple(rounds))
