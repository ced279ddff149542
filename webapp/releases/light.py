"""A change that needs no new colour: the same master forks new workers with other settings."""

from __future__ import annotations

import time

import msgspec

from webapp.errors import SetupError
from webapp.releases.programs import program_of
from webapp.releases.stages import POLL_S, Stages
from webapp.releases.state import Release

SURE_S = 0.5
"""So long only new workers must have answered: an old one closes its door when it is told to leave."""


class Light(Stages):
    """Stages of a release that takes the place of another in its colour."""

    def reload(self) -> str:
        """HUP, and wait until only new workers answer."""
        self._put(self.release, before=self.colours.serving)
        return f"workers of release {self.release.number} answer"

    def unreload(self) -> None:
        """HUP back to what was there."""
        if self.colours.before is not None:
            self._put(self.colours.before, before=None)

    def _put(self, release: Release, before: Release | None) -> None:
        self._attempt()
        colours = self.colours.with_release(self.target, release)
        self.keep(msgspec.structs.replace(colours, before=before))
        self.programs.signal(program_of(self.target), "HUP")
        give_up, since = time.monotonic() + self.patience_s, time.monotonic()
        while time.monotonic() - since < SURE_S:
            if self.api.release() != release.number:
                since = time.monotonic()
            if time.monotonic() > give_up:
                raise SetupError(f"its workers did not come up within {self.patience_s:g} s; see {self._log()}")
            time.sleep(POLL_S)
