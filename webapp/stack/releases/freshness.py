"""Whether the process that serves has read the code, packages and settings file that are there now."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from webapp.config.paths import ROOT
from webapp.config.sources import FILE_VARIABLE

_START_TIME = 19
"""Its place behind the name of the program in /proc/PID/stat; in clock ticks since the machine was started."""


def changed_since_start(pid: int) -> bool:
    """Whether any of it was written since that process was started, or the process is gone."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_TIME])
    except OSError:
        return True
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    began = time.time() - age_s
    # ctime: a checkout or an installer may give files an older mtime.
    return any(path.stat().st_ctime >= began for path in _what_it_reads() if path.exists())


def _what_it_reads() -> Iterator[Path]:
    for package in ("webapp", "pusher", "contracts"):
        folder = ROOT / package
        yield from folder.rglob("*.py")
        yield from folder.rglob("*.so")
    yield ROOT / "gunicorn_config.py"
    yield Path(sys.executable).resolve()
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        yield from Path(packages).glob("*.dist-info")  # each is written by an install, and by nothing else
    if named := os.environ.get(FILE_VARIABLE):
        yield Path(named)
