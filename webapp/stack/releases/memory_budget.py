"""How much memory a color takes, and whether another one fits beside it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from webapp.config.resources import free_bytes
from webapp.domain.errors import SetupError
from webapp.stack.processes import children

__all__ = ["Footprint", "check", "free_bytes", "measure", "needed", "size_of"]

MARGIN = 1.1
"""The other color may take this many times what was measured of one."""

KEPT_FREE_BYTES = 64 * 1024**2
"""Memory that stays free beside two colors."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a color's processes, in bytes; a page that they share is divided among them."""

    master: int
    workers: tuple[int, ...]

    def with_workers(self, count: int) -> int:
        """Return the bytes that it would take with this number of workers. PURE."""
        mean = sum(self.workers) / len(self.workers) if self.workers else 0
        return round(self.master + count * mean)


def measure(master: int) -> Footprint:
    """Return the footprint of a gunicorn master, by its pid, and of its workers; a process that is gone counts 0."""
    return Footprint(_pss_bytes(master), tuple(_pss_bytes(worker) for worker in children(master)))


def needed(active: Footprint, *, workers: int, artifact_growth: int) -> int:
    """Estimate the bytes that a new color will take, from the active one. PURE.

    Args:
        active: the color that serves.
        workers: number of the new color's workers.
        artifact_growth: bytes by which its artifact is larger; each worker compiles a copy of its own.
    """
    return round(MARGIN * (active.with_workers(workers) + max(0, artifact_growth) * (1 + workers)))


def check(needed_bytes: int, free_bytes: int) -> str:
    """Return both figures in words if a new color fits into memory. PURE.

    Raises:
        SetupError: it does not fit.
    """
    needed_mb, free_mb = (f"{count / 1024**2:,.0f}" for count in (needed_bytes, free_bytes))
    figures = f"a new color takes about {needed_mb} MB beside the old one, {free_mb} MB are free"
    if needed_bytes + KEPT_FREE_BYTES > free_bytes:
        raise SetupError(f"{figures}: two colors don't fit; free some, or restart the stack with the new settings")
    return figures


def size_of(directory: Path) -> int:
    """Return the bytes of the files in a directory; 0 when it is not there."""
    return sum(path.stat().st_size for path in directory.glob("*") if path.is_file())


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return 0
