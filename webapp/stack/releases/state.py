"""The file `.colors`: which color is active, which release each color has, and the history of deploys.

It is replaced atomically. Its JSON keys stay, so that older releases can read it after a rollback.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from webapp.domain.errors import SetupError

COLORS = ("blue", "green")

FILE = ".colors"

MOST_HISTORY = 200
"""Entries of the history that are kept."""

_COLOR: str = msgspec.field(name="colour")
"""JSON key of the color, in the spelling of the file's first version: older releases read the file after a rollback."""

Outcome = Literal["serving", "refused", "rolled back", "interrupted"]

Role = Literal["active", "idle", ""]
"""Role of a program; empty: it belongs to no color."""


class Release(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model, settings and code that a color serves."""

    number: int
    settings: dict[str, str] = {}
    """Environment variables that differ from the stack's environment."""
    artifact: str = ""
    """Directory name below `models_dir`; empty for the stub engine."""
    model: str = ""
    python: str = ""
    """Path of the interpreter; empty: the stack's own."""
    root: str = ""
    """Folder of the project's code; empty: the stack's own."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A deploy that is under way or was killed. Each resource is written here before the deploy takes it."""

    number: int
    color: str = _COLOR
    replaced: Release | None = None
    """The color's release before this deploy; None: it had none."""
    artifact: str = ""
    """The artifact that this deploy makes; empty: it makes none."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the deploy history."""

    at: str
    """Time of the end: UTC, ISO 8601."""
    number: int
    color: str = _COLOR
    outcome: Outcome
    what: str
    """Model and settings, or the reason of a refusal; one line."""
    took_s: float = 0.0


class Colors(msgspec.Struct, frozen=True, kw_only=True):
    """Content of the file `.colors`."""

    active: str
    idle: str
    serves: dict[str, Release]
    before: Release | None = None
    """The active color's release before its last reload in place (HUP); None: there was no such reload."""
    attempt: Attempt | None = None
    made: list[str] = []
    """Artifacts that deploys made and that still exist, the oldest first."""
    last_number: int = 1
    history: list[Entry] = []

    def __post_init__(self) -> None:
        if {self.active, self.idle} != set(COLORS) or self.active not in self.serves:
            raise ValueError("active, idle and serves contradict each other")

    @property
    def serving(self) -> Release:
        """Return the active color's release."""
        return self.serves[self.active]

    def switched(self) -> Colors:
        """Return a copy in which the two colors have changed their roles."""
        return msgspec.structs.replace(self, active=self.idle, idle=self.active, before=None)

    def with_release(self, color: str, release: Release | None) -> Colors:
        """Return a copy in which a color has this release; None: it has no release."""
        serves = {name: kept for name, kept in self.serves.items() if name != color}
        return msgspec.structs.replace(self, serves={**serves, color: release} if release else serves)

    def with_entry(self, entry: Entry) -> Colors:
        """Return a copy with one more history entry; drop the oldest ones beyond `MOST_HISTORY`."""
        return msgspec.structs.replace(self, history=[*self.history, entry][-MOST_HISTORY:])


def begin(color: str) -> Colors:
    """Return the first state of a stack: one release that has the environment's settings.

    Args:
        color: the active one; anything but "blue" or "green" means blue.
    """
    active = color if color in COLORS else COLORS[0]
    return Colors(active=active, idle=other(active), serves={active: Release(number=1)})


def other(color: str) -> str:
    """Return the other one of the two colors."""
    return COLORS[1 - COLORS.index(color)]


def program_of(color: str) -> str:
    """Return the name of a color's program in supervisor."""
    return f"webapp-{color}"


def role_of(program: str, colors: Colors | None) -> Role:
    """Return the role of a program, by its name in supervisor."""
    if colors is None:
        return ""
    roles: dict[str, Role] = {program_of(colors.active): "active", program_of(colors.idle): "idle"}
    return roles.get(program, "")


def idle_warning(program: str) -> str:
    """Return the warning about an idle color's program that runs."""
    return f"{program} is idle, yet it runs: it takes memory and serves nobody; stop it with: reranking stop {program}"


def read(state_dir: Path) -> Colors | None:
    """Read the state; None where no stack has run yet.

    Raises:
        SetupError: the file can't be read or is damaged.
    """
    path = state_dir / FILE
    try:
        with open(path, "rb", opener=_open_without_blocking) as file:
            return msgspec.json.decode(file.read() or b"", type=Colors)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError) as error:  # msgspec's are ValueErrors
        raise SetupError(
            f"{path} can't be read ({error}); without it, the stack begins with the environment's settings"
        ) from error


def write(state_dir: Path, colors: Colors) -> None:
    """Replace the file atomically. A power cut leaves the old content or the new one: fsync comes before the rename."""
    path = state_dir / FILE
    new = path.with_name(f"{FILE}.new")
    with open(new, "wb", opener=_open_private) as file:
        file.write(msgspec.json.format(msgspec.json.encode(colors)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # somebody may have put a pipe there, and open would wait for a writer


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
