"""Which program is active and which is idle; and the lock that lets one command at a time change that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from webapp.config.lockfile import is_locked, lock
from webapp.domain.errors import SetupError
from webapp.stack.releases.state import Colors
from webapp.stack.supervisor.client import Program, program_of

LOCK = "deploy.lock"

Role = Literal["active", "idle", ""]
"""Empty: the program is of no color."""


def role_of(program: str, colors: Colors | None) -> Role:
    """A program's role."""
    if colors is None:
        return ""
    roles: dict[str, Role] = {program_of(colors.active): "active", program_of(colors.idle): "idle"}
    return roles.get(program, "")


@contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Hold the lock of deploys.

    Raises:
        SetupError: a deploy has it.
    """
    with (run_dir / LOCK).open("a+") as file:
        if not lock(file):
            raise SetupError("another deploy runs; wait for its end")
        yield


def idle_that_runs(run_dir: Path, colors: Colors | None, programs: Iterable[Program]) -> str:
    """Name of the idle color's program, where it runs though no deploy needs it; else empty."""
    if colors is None or is_locked(run_dir / LOCK):
        return ""
    return next((each.name for each in programs if role_of(each.name, colors) == "idle" and each.up), "")


def idle_runs(name: str) -> str:
    """What is said of an idle color's program that runs."""
    return f"{name} is idle, yet it runs: it takes memory and serves nobody; stop it with: reranking stop {name}"
