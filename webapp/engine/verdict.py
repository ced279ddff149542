"""What the comparison of engines found for an artifact, kept in its directory: it is made once a machine."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import msgspec

FILE = "compared.json"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a comparison."""

    said: str
    """In words, for `/info`, `reranking status` and the log."""
    machine: str
    """Where it was made; see `machine`."""
    faster: str = ""
    """Name of the artifact that was found faster; empty: none was."""
    settled: bool = True
    """False until the release of the faster artifact serves, or was refused."""


def read(directory: Path) -> Verdict | None:
    """The verdict on an artifact; None where none was made on this machine."""
    try:
        found = msgspec.json.decode((directory / FILE).read_bytes(), type=Verdict)
    except (OSError, ValueError):
        return None
    return found if found.machine == machine() else None


def write(directory: Path, verdict: Verdict) -> None:
    """Put a verdict into an artifact's directory, in place of the one before."""
    aside = directory / f"{FILE}.new"
    aside.write_bytes(msgspec.json.format(msgspec.json.encode(verdict)))
    aside.replace(directory / FILE)


@functools.cache
def machine() -> str:
    """Tell processors apart by their names and instructions, and by how many cores we may use."""
    told = {line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(_SAYS_WHICH)}
    digest = hashlib.blake2b("\n".join(sorted(told)).encode(), digest_size=6).hexdigest()
    return f"{digest} x{len(os.sched_getaffinity(0))}"


_SAYS_WHICH = ("model name", "flags", "Features", "CPU part")
