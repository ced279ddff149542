"""The file `.colors`: which color is active, what each serves, what happened. Written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from webapp.domain.errors import SetupError

COLORS = ("blue", "green")

FILE = ".colors"

MOST_HISTORY = 200
"""Entries that are kept."""

_COLOR: str = msgspec.field(name="colour")
"""The spelling of the file's first version: a release of that time reads the file, too, after a rollback."""

Outcome = Literal["serving", "refused", "rolled back", "interrupted"]


class Release(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a color serves."""

    number: int
    settings: dict[str, str] = {}
    """Variables by which it differs from the stack's environment."""
    artifact: str = ""
    """Directory below the models' one; empty for the stub engine."""
    model: str = ""
    python: str = ""
    """Interpreter that runs it; empty: the stack's own."""
    root: str = ""
    """The project's folder that it runs; empty: the stack's own."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A deploy that is under way, or was killed. What it has to give back is written here before it is taken."""

    number: int
    color: str = _COLOR
    step: str = ""
    replaced: Release | None = None
    """What the color had before."""
    artifact: str = ""
    """The artifact that this deploy makes; empty: it was there."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of history."""

    at: str
    """UTC, ISO 8601."""
    number: int
    color: str = _COLOR
    outcome: Outcome
    what: str
    """Model and settings, or why not; one line."""
    took_s: float = 0.0


class Colors(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content."""

    active: str
    idle: str
    serves: dict[str, Release]
    before: Release | None = None
    """What the active color served before its last change without a new color; None: it had none."""
    attempt: Attempt | None = None
    made: list[str] = []
    """Artifacts that deploys made, and that are still there."""
    last_number: int = 1
    history: list[Entry] = []

    def __post_init__(self) -> None:
        if {self.active, self.idle} != set(COLORS) or self.active not in self.serves:
            raise ValueError("its colors make no sense")

    @property
    def serving(self) -> Release:
        """The active color's release."""
        return self.serves[self.active]

    def switched(self) -> Colors:
        """With the other color active."""
        return msgspec.structs.replace(self, active=self.idle, idle=self.active, before=None)

    def with_release(self, color: str, release: Release | None) -> Colors:
        """With another release in a color; None: with none."""
        serves = {name: kept for name, kept in self.serves.items() if name != color}
        return msgspec.structs.replace(self, serves={**serves, color: release} if release else serves)

    def with_entry(self, entry: Entry) -> Colors:
        """With one more line of history."""
        return msgspec.structs.replace(self, history=[*self.history, entry][-MOST_HISTORY:])


def begin(color: str) -> Colors:
    """A stack's first state: one release, with the environment's settings.

    Args:
        color: to begin with, where it is one of ours.
    """
    active = color if color in COLORS else COLORS[0]
    return Colors(active=active, idle=other(active), serves={active: Release(number=1)})


def other(color: str) -> str:
    """The color that this one is not."""
    return COLORS[1 - COLORS.index(color)]


def settled(colors: Colors) -> Colors:
    """After a deploy was killed: the idle color has what it had before, unless the switch had been made."""
    attempt = colors.attempt
    if attempt is None:
        return colors
    if attempt.color == colors.idle:
        colors = colors.with_release(attempt.color, attempt.replaced)
    return msgspec.structs.replace(colors, attempt=None)


def read(state_dir: Path) -> Colors | None:
    """The state; None where no stack has run yet.

    Raises:
        SetupError: the file is damaged.
    """
    path = state_dir / FILE
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return msgspec.json.decode(file.read() or b"", type=Colors)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError) as error:  # msgspec's are ValueErrors
        raise SetupError(
            f"{path} can't be read ({error}); without it, the stack begins with the environment's settings"
        ) from error


def write(state_dir: Path, colors: Colors) -> None:
    """Replace the file. It reaches the disk before its name does, so that a power cut leaves the old one or this."""
    path = state_dir / FILE
    aside = path.with_name(f"{FILE}.new")
    with open(aside, "wb", opener=_private) as file:
        file.write(msgspec.json.format(msgspec.json.encode(colors)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # should it be a pipe, nobody may ever write to it


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
