"""A list of steps to run in order; when one fails, those before it are undone, the last first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from webapp.domain.errors import SetupError


@dataclass(frozen=True, slots=True)
class Step:
    """One step."""

    name: str
    do: Callable[[], str]
    """Returns its result in words; raises SetupError or OSError with the reason of a failure."""
    undo: Callable[[], None] | None = None
    """Called also when `do` itself failed half-way, so it must accept that something is not there."""


Stage = Literal["begun", "done", "failed", "undone"]

Report = Callable[[str, Stage, str, float], None]
"""Called with a step's name, its stage, a message (or ""), and the seconds that it took (or 0)."""


class RefusedError(SetupError):
    """A step failed, and all steps were undone."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"refused at {step}: {reason}")


def run(steps: Sequence[Step], report: Report) -> None:
    """Run all steps.

    Raises:
        RefusedError: a step failed; all were undone.
        BaseException: something else, such as Ctrl-C, ended a step; all were undone.
    """
    begun: list[Step] = []
    for step in steps:
        began = time.monotonic()
        begun.append(step)
        report(step.name, "begun", "", 0.0)
        try:
            result = step.do()
        except BaseException as error:
            expected = isinstance(error, SetupError | OSError)
            reason = str(error) if expected else f"{type(error).__name__} {error}".strip()
            report(step.name, "failed", reason, time.monotonic() - began)
            _undo(begun, report)
            if expected:
                raise RefusedError(step.name, reason) from error
            raise
        report(step.name, "done", result, time.monotonic() - began)


def _undo(begun: Sequence[Step], report: Report) -> None:
    for step in reversed(begun):
        if step.undo is None:
            continue
        message = ""
        try:
            step.undo()
        except (SetupError, OSError) as error:  # the others still have to be undone
            message = f"not wholly: {error}"
        report(step.name, "undone", message, 0.0)
