"""What a deploy reports: lines on the terminal, and an event for the dashboard with all steps each time."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec

from contracts import events
from webapp.config.settings import Settings
from webapp.stack.releases.steps import Stage
from webapp.telemetry.publisher import Publisher

Say = Callable[[str], None]


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
        self._say = say
        self._publisher = Publisher(settings.events_address, color=release.color) if settings.events else None
        self._release = release
        self._draw = draw
        self._counted = ""
        self._steps: list[events.Step] = []
        if self._publisher is not None:
            self._publisher.start()
        self._publish()

    def step(self, name: str, stage: Stage, message: str, took_s: float) -> None:
        """Report that a step came to a stage; see `steps.Report`."""
        ending = f": {message}" if message else ""
        if stage == "begun":
            self._steps.append(events.Step(name=name, state="running"))
        elif stage == "undone":
            self._say(f"  {name} undone{ending}")
        else:
            self._steps[-1] = events.Step(name=name, state=stage, said=message, took_s=round(took_s, 2))
            self._say(f"  {name:<8} {'done' if stage == 'done' else 'FAILED'} in {took_s:.1f} s{ending}")
        self._publish()

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
        self._release = msgspec.structs.replace(self._release, state=state)
        self._publish()
        if self._publisher is not None:
            self._publisher.close()

    def _publish(self) -> None:
        if self._publisher is not None:
            event = msgspec.structs.replace(self._release, steps=list(self._steps), at=round(time.time(), 3))
            self._publisher.publish(event)
            self._publisher.flush()
