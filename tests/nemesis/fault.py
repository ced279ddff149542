"""What a fault is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from nemesis.clients import Clients
from nemesis.judging import NO_EXCUSE, Excuse
from nemesis.subject import BrokenError, Subject

CUT = Excuse(cut=True, followers=True)
"""A program in front of the webapp dies with the connections that it has."""

FOLLOWERS = Excuse(followers=True)
"""What tells of progress dies, and no reply depends on it."""


@dataclass(frozen=True)
class Trial:
    """What a fault may use."""

    subject: Subject
    clients: Clients
    rng: random.Random
    scale: float
    """How much of the full number of hostile clients there shall be."""

    def hold(self, seconds: float) -> None:
        """Let the fault go on until each client has ended a request that it began now, or for some seconds."""
        self.clients.turn(seconds)

    def goes_on(self, requests: int = 0) -> None:
        """Let the fault go on until each client, and so many requests, have ended: the service has to answer meanwhile.

        Raises:
            BrokenError: some hang.
        """
        window = self.clients.window
        waiting = self.clients.turn(self.subject.patience_s)
        if waiting:
            raise BrokenError(f"no answer while it went on: {', '.join(waiting)}")
        self.subject.patiently(lambda: window.met.total() >= requests, f"{requests} requests end while it goes on")

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
