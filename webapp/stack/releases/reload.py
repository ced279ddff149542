"""A change that needs no new color: the same master forks new workers with other settings.

Workers that can't start end their master. Supervisor tries it a few times, with the release that `.colors` has, and
then gives the stack up. So the master is watched, and the old release is there again before the last try.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

import msgspec

from webapp.domain.errors import SetupError
from webapp.stack.releases.state import Colors, Release
from webapp.stack.releases.tasks import POLL_S, DeployTasks
from webapp.stack.supervisor.client import Program, SupervisorError, program_of

SURE_S = 0.5
"""So long only new workers must have answered: an old one closes its door when it is told to leave."""


@dataclass(slots=True)
class InPlaceReload(DeployTasks):
    """Stages of a release that takes the place of another in its color."""

    _was: Colors | None = field(init=False, default=None)
    """The state before anything of it was changed."""

    def reload(self) -> str:
        """HUP, and wait until only new workers answer."""
        master = self._program()
        if master.state not in {"STARTING", "RUNNING"}:
            raise SetupError(f"{master.name} does not run now; see {self._log()}")
        self._was = self.colors
        self._write(self.release, before=self.colors.serving)
        self.programs.signal(master.name, "HUP")
        self._wait_for(self.release, master.pid)
        return f"workers of release {self.release.number} answer"

    def unreload(self) -> None:
        """HUP back to what was there."""
        if self._was is None:
            return
        release = self._was.serving
        self._write(release, before=self._was.before)
        with contextlib.suppress(SupervisorError):  # it does not run just now, and reads its release when it starts
            self.programs.signal(program_of(self.target), "HUP")
        self._wait_for(release)

    def _write(self, release: Release, before: Release | None) -> None:
        self._attempt()
        colors = self.colors.with_release(self.target, release)
        self.keep(msgspec.structs.replace(colors, before=before))

    def _wait_for(self, release: Release, pid: int = 0) -> None:
        """Until only its workers answer; with a pid, as long as the master is that process."""
        give_up, since = time.monotonic() + self.patience_s, time.monotonic()
        while time.monotonic() - since < SURE_S:
            master = self._program()
            if pid and master.pid != pid:
                raise SetupError(f"its workers did not start; see {self._log()}")
            if master.state in {"STOPPED", "FATAL"}:
                raise SetupError(f"{master.name} was given up; see {self._log()}")
            if self.api.release() != release.number:
                since = time.monotonic()
            if time.monotonic() > give_up:
                raise SetupError(f"its workers did not come up within {self.patience_s:g} s; see {self._log()}")
            time.sleep(POLL_S)

    def _program(self) -> Program:
        return self.programs.of(program_of(self.target))
