"""The steps of a deploy: run in order, undone in reverse when one fails, and reported.

Reports are lines on the terminal, and an event for the dashboard with all steps each time.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from contracts import events
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError

Say = Callable[[str], None]


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
    with contextlib.ExitStack() as undoing:
        for step in steps:
            began = time.monotonic()
            undoing.callback(_undo, step, report)
            report(step.name, "begun", "", 0.0)
            try:
                result = step.do()
            except BaseException as error:
                expected = isinstance(error, SetupError | OSError)
                reason = str(error) if expected else f"{type(error).__name__} {error}".strip()
                report(step.name, "failed", reason, time.monotonic() - began)
                if expected:
                    raise RefusedError(step.name, reason) from error
                raise
            report(step.name, "done", result, time.monotonic() - began)
        undoing.pop_all()


def _undo(step: Step, report: Report) -> None:
    if step.undo is not None:
        message = ""
        try:
            step.undo()
        except (SetupError, OSError) as error:  # the others still have to be undone
            message = f"not wholly: {error}"
        report(step.name, "undone", message, 0.0)


class DeployReporter:
    """Reports the steps of one release. It does not need a listener."""

    def __init__(self, settings: Settings, release: events.Release, say: Say, draw: Say | None = None) -> None:
        """Publish the release without steps, unless RERANK_EVENTS is off.

        Args:
            settings: of the release.
            release: what is known of it so far.
            say: called with each line.
            draw: called with each line that the next one replaces; None: there is no terminal for that.
        """
        from webapp.telemetry.publisher import Publisher  # noqa: PLC0415 - zmq, which a command that only looks needs not

        self._say = say
        key = settings.events_key.get_secret_value()
        self._publisher = Publisher(settings.events_address, color=release.color, key=key)
        self._release = release
        self._draw = draw
        self._counted = ""
        if settings.events:
            self._publisher.start()  # else it drops all
        self._publish()

    def step(self, name: str, stage: Stage, message: str, took_s: float) -> None:
        """Report that a step came to a stage; see `Report`."""
        ending, steps = f": {message}" if message else "", self._release.steps
        if stage == "begun":
            steps = [*steps, events.Step(name=name, state="running")]
        elif stage == "undone":
            self._say(f"  {name} undone{ending}")
        else:
            self._say(f"  {name:<8} {'done' if stage == 'done' else 'FAILED'} in {took_s:.1f} s{ending}")
            steps = [*steps[:-1], events.Step(name=name, state=stage, said=message, took_s=round(took_s, 2))]
        self._publish(steps=steps)

    def detail(self, message: str) -> None:
        """Report what happens within a step."""
        self._say(f"    {message}")

    def count(self, message: str) -> None:
        """Report a changed number within a step. Without a terminal, say it once: a log needs no line a second."""
        words = re.sub(r"\d+", "", message)
        if self._draw is not None:
            self._draw(f"    {message}")
        elif words != self._counted:
            self.detail(message)
        self._counted = words

    def end(self, state: events.ReleaseState) -> None:
        """Publish how the deploy ended, and close the publisher."""
        self._publish(state=state)
        self._publisher.close()

    def _publish(self, **changes: object) -> None:
        self._release = msgspec.structs.replace(self._release, **changes, at=round(time.time(), 3))
        self._publisher.publish(self._release)
        self._publisher.flush()
