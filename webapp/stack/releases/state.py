"""The file `.colors`: which colour is active, what each serves, what happened. Written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from webapp.domain.errors import SetupError

COLOURS = ("blue", "green")

FILE = ".colors"

MOST_HISTORY = 200
"""Entries that are kept."""

Outcome = Literal["serving", "refused", "rolled back", "interrupted"]


class Release(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a colour serves."""

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
    colour: str
    step: str = ""
    replaced: Release | None = None
    """What the colour had before."""
    artifact: str = ""
    """The artifact that this deploy makes; empty: it was there."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of history."""

    at: str
    """UTC, ISO 8601."""
    number: int
    colour: str
    outcome: Outcome
    what: str
    """Model and settings, or why not; one line."""
    took_s: float = 0.0


class Colours(msgspec.Struct, frozen=True, kw_only=True):
    """The file's content."""

    active: str
    idle: str
    serves: dict[str, Release]
    before: Release | None = None
    """What the active colour served before its last change without a new colour; None: it had none."""
    attempt: Attempt | None = None
    made: list[str] = []
    """Artifacts that deploys made, and that are still there."""
    last_number: int = 1
    history: list[Entry] = []

    def __post_init__(self) -> None:
        if {self.active, self.idle} != set(COLOURS) or self.active not in self.serves:
            raise ValueError("its colours make no sense")

    @property
    def serving(self) -> Release:
        """The active colour's release."""
        return self.serves[self.active]

    def switched(self) -> Colours:
        """With the other colour active."""
        return msgspec.structs.replace(self, active=self.idle, idle=self.active, before=None)

    def with_release(self, colour: str, release: Release | None) -> Colours:
        """With another release in a colour; None: with none."""
        serves = {name: kept for name, kept in self.serves.items() if name != colour}
        return msgspec.structs.replace(self, serves={**serves, colour: release} if release else serves)

    def with_entry(self, entry: Entry) -> Colours:
        """With one more line of history."""
        return msgspec.structs.replace(self, history=[*self.history, entry][-MOST_HISTORY:])


def begin(colour: str) -> Colours:
    """A stack's first state: one release, with the environment's settings.

    Args:
        colour: to begin with, where it is one of ours.
    """
    active = colour if colour in COLOURS else COLOURS[0]
    return Colours(active=active, idle=other(active), serves={active: Release(number=1)})


def other(colour: str) -> str:
    """The colour that this one is not."""
    return COLOURS[1 - COLOURS.index(colour)]


def settled(colours: Colours) -> Colours:
    """After a deploy was killed: the idle colour has what it had before, unless the switch had been made."""
    attempt = colours.attempt
    if attempt is None:
        return colours
    if attempt.colour == colours.idle:
        colours = colours.with_release(attempt.colour, attempt.replaced)
    return msgspec.structs.replace(colours, attempt=None)


def read(state_dir: Path) -> Colours | None:
    """The state; None where no stack has run yet.

    Raises:
        SetupError: the file is damaged.
    """
    path = state_dir / FILE
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return msgspec.json.decode(file.read() or b"", type=Colours)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError) as error:  # msgspec's are ValueErrors
        raise SetupError(
            f"{path} can't be read ({error}); without it, the stack begins with the environment's settings"
        ) from error


def write(state_dir: Path, colours: Colours) -> None:
    """Replace the file. It reaches the disk before its name does, so that a power cut leaves the old one or this."""
    path = state_dir / FILE
    aside = path.with_name(f"{FILE}.new")
    with open(aside, "wb", opener=_private) as file:
        file.write(msgspec.json.format(msgspec.json.encode(colours)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # should it be a pipe, nobody may ever write to it


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
