"""How much memory a color takes, and whether another one fits beside it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from webapp.config.resources import free_bytes
from webapp.domain.errors import SetupError
from webapp.stack.processes import children

MARGIN = 1.1
"""What is measured of one color may be a little more in the other."""

KEPT_FREE_BYTES = 64 * 1024**2

_PROC = Path("/proc")

__all__ = ["Footprint", "check", "free_bytes", "measure", "needed", "size_of"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a color, in bytes; pages shared between its processes count once."""

    master: int
    workers: tuple[int, ...]

    @property
    def total(self) -> int:
        """Of all its processes."""
        return self.master + sum(self.workers)

    def with_workers(self, count: int) -> int:
        """What it would take with so many workers. PURE."""
        mean = sum(self.workers) / len(self.workers) if self.workers else 0
        return round(self.master + count * mean)


def measure(master: int) -> Footprint:
    """Of a gunicorn master and its workers, by their proportional share of each page; what is gone counts 0."""
    return Footprint(_pss_bytes(master), tuple(_pss_bytes(worker) for worker in children(master)))


def needed(active: Footprint, *, workers: int, artifact_growth: int) -> int:
    """What a new color will take, as far as can be told from the active one. PURE.

    Args:
        active: the color that serves.
        workers: of the new one.
        artifact_growth: bytes by which its artifact is larger; each worker compiles a copy of its own.
    """
    return round(MARGIN * (active.with_workers(workers) + max(0, artifact_growth) * (1 + workers)))


def check(needed_bytes: int, free_bytes: int) -> str:
    """Whether it fits. PURE.

    Raises:
        SetupError: it does not.
    """
    said = f"a new color takes about {_mb(needed_bytes)} MB beside the old one, {_mb(free_bytes)} MB are free"
    if needed_bytes + KEPT_FREE_BYTES > free_bytes:
        raise SetupError(f"{said}: two colors don't fit; free some, or restart the stack with the new settings")
    return said


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory; 0 when it is not there."""
    return sum(path.stat().st_size for path in directory.glob("*") if path.is_file())


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return 0


def _mb(count: int) -> str:
    return f"{count / 1024**2:,.0f}"
