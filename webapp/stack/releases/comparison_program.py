"""The program that compares engines, as others start and stop it. What it does is in `compare`."""

from __future__ import annotations

import contextlib
import os

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine import comparison
from webapp.stack.supervisor.client import Programs

PROGRAM = "compare"

STOP_PATIENCE_S = 20.0


def start_if_due(settings: Settings, programs: Programs) -> None:
    """Start the comparison, if there is something to compare; nothing depends on it.

    Args:
        settings: by which the active color serves.
        programs: of the stack.
    """
    with contextlib.suppress(SetupError, OSError):
        if comparison.is_due(settings):
            programs.start(PROGRAM)


def stop(programs: Programs) -> None:
    """End a comparison that is under way, unless it is this process."""
    if programs.of(PROGRAM).pid != os.getpid():
        programs.stop(PROGRAM, patience_s=STOP_PATIENCE_S)
