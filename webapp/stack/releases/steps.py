"""A list of steps, done one after the other; when one fails, what was done is undone, the last first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from webapp.domain.errors import SetupError


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Step:
    """One of them."""

    name: str
    do: Callable[[], str]
    """Returns what it found, in words; raises SetupError or OSError, which say what is wrong."""
    undo: Callable[[], None] = _nothing
    """Called too when `do` itself failed half-way, so it must not mind what is not there."""


Stage = Literal["begun", "done", "failed", "undone"]


class Tell(Protocol):
    """Told what happens."""

    def __call__(self, step: str, stage: Stage, said: str = "", took_s: float = 0.0) -> None:
        """A step came to a stage."""


class RefusedError(SetupError):
    """A step failed, and everything is as it was."""

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"refused at {step}: {why}")
        self.step = step
        self.why = why


def run(steps: Sequence[Step], tell: Tell, clock: Callable[[], float] = time.monotonic) -> None:
    """Do them all.

    Raises:
        RefusedError: one failed; the others are undone.
        BaseException: whatever else ended it, after everything was undone.
    """
    begun: list[Step] = []
    for step in steps:
        began = clock()
        begun.append(step)
        tell(step.name, "begun")
        try:
            said = step.do()
        except BaseException as error:
            why = str(error) if isinstance(error, SetupError | OSError) else f"{type(error).__name__} {error}".strip()
            tell(step.name, "failed", why, clock() - began)
            _undo(begun, tell)
            if isinstance(error, SetupError | OSError):
                raise RefusedError(step.name, why) from error
            raise
        tell(step.name, "done", said, clock() - began)


def _undo(begun: Sequence[Step], tell: Tell) -> None:
    for step in reversed(begun):
        if step.undo is _nothing:
            continue
        try:
            step.undo()
        except (SetupError, OSError) as error:  # the others still have to be undone
            tell(step.name, "undone", f"not wholly: {error}")
        else:
            tell(step.name, "undone")
