"""What a deploy says: lines on the terminal, and one event for the dashboard that tells the release whole each time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec

from contracts import events
from webapp.stack.releases.steps import Stage
from webapp.telemetry.publisher import Publisher

Say = Callable[[str], None]


class DeployReporter:
    """Tells of one release's steps; see `steps.Tell`. Nobody needs to listen."""

    def __init__(self, say: Say, publisher: Publisher | None, release: events.Release, draw: Say | None = None) -> None:
        """Begin.

        Args:
            say: told a line at a time.
            publisher: to the pusher, started; None: no events.
            release: as far as it is known.
            draw: draws a line that the next one replaces; None: there is no terminal for that.
        """
        self._say = say
        self._publisher = publisher
        self._release = release
        self._draw = draw
        self._counted = ""
        self._steps: list[events.Step] = []
        self._publish()

    def __call__(self, step: str, stage: Stage, said: str = "", took_s: float = 0.0) -> None:
        """A step came to a stage."""
        if stage == "begun":
            self._steps.append(events.Step(name=step, state="running"))
        elif stage == "undone":
            self._say(f"  {step} undone{': ' if said else ''}{said}")
        else:
            self._steps[-1] = events.Step(name=step, state=stage, said=said, took_s=round(took_s, 2))
            mark = "done" if stage == "done" else "FAILED"
            self._say(f"  {step:<8} {mark} in {took_s:.1f} s{': ' if said else ''}{said}")
        self._publish()

    def more(self, said: str) -> None:
        """A step goes on."""
        self._say(f"    {said}")

    def count(self, said: str) -> None:
        """A figure of a step changed. Without a terminal it is said once: a log needs no line a second."""
        words = re.sub(r"\d+", "", said)
        if self._draw is not None:
            self._draw(f"    {said}")
        elif words != self._counted:
            self.more(said)
        self._counted = words

    def end(self, state: events.ReleaseState) -> None:
        """How it ended. A dashboard hears of it, if one listens."""
        self._release = msgspec.structs.replace(self._release, state=state)
        self._publish()
        if self._publisher is not None:
            self._publisher.close()

    def _publish(self) -> None:
        if self._publisher is not None:
            told = msgspec.structs.replace(self._release, steps=list(self._steps), at=round(time.time(), 3))
            self._publisher.publish(told)
            self._publisher.flush()
