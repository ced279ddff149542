"""What a fault is."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from nemesis.clients import Clients
from nemesis.judging import NO_EXCUSE, Excuse
from nemesis.subject import Subject

CUT = Excuse(cut=True, followers=True)
"""A program in front of the webapp dies with the connections that it has."""

FOLLOWERS = Excuse(followers=True)
"""What tells of progress dies, and no reply depends on it."""

TURN_S = 15.0
"""Longest time for which a fault goes on until each client has met it."""


@dataclass(frozen=True)
class Trial:
    """What a fault may use."""

    subject: Subject
    clients: Clients
    rng: random.Random
    scale: float
    """How much of the full number of hostile clients there shall be."""

    def met_by_all(self, most_s: float = TURN_S) -> None:
        """Wait until each client has ended a request that it began now, or for some seconds."""
        self.clients.turn(most_s)

    def met_by_requests(self, count: int) -> None:
        """Wait until so many requests have met it, or for some seconds."""
        give_up = time.monotonic() + TURN_S
        while self.clients.window.met.total() < count and time.monotonic() < give_up:
            time.sleep(0.02)

    def scaled(self, count: int) -> int:
        """Return the number of hostile clients in this run."""
        return max(1, round(count * self.scale))


Do = Callable[[Trial], Iterator[None]]
"""Does a fault, yields, and undoes it. It may raise `BrokenError`."""


@dataclass(frozen=True)
class Fault:
    """A fault: a name, what it does and undoes, and what it excuses."""

    section: str
    name: str
    do: Do
    excuse: Excuse = NO_EXCUSE
    before: str = ""
    """What issue 17 says of it, before it was mended."""
    ends: bool = False
    """Whether the stack may end, to be started anew."""
    cheap: bool = True
    """Whether it belongs into a short run."""
    possible: Callable[[Subject], bool] = lambda _: True

    def during(self, trial: Trial) -> AbstractContextManager[None]:
        """Return a context manager that holds the fault."""
        return contextmanager(self.do)(trial)
