"""Read the log files of a stack together: their last lines in order of time, and new lines as they come."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from contracts.logging.foreign import ours
from webapp.domain.errors import SetupError

POLL_S = 0.2

LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Filter:
    """The lines to show."""

    request_id: str = ""
    """Only lines of this request; empty: of any."""
    level: str = "debug"
    """Only lines of this level and above."""

    def takes(self, line: str) -> bool:
        """Return whether to show a line. One that isn't JSON (RERANK_LOG_FORMAT=human) has no level."""
        if self.request_id not in line:  # far cheaper than to parse a line, and most are refused here
            return False
        if not self.request_id and self.level == LEVELS[0]:
            return True
        event = ours(line)
        if event is None:
            return self.level == LEVELS[0]
        matches = not self.request_id or event["request_id"] == self.request_id
        return matches and event["level"] in LEVELS[LEVELS.index(self.level) :]


def files_of(log_dir: Path, programs: Iterable[str]) -> list[Path]:
    """Return the log files of programs, by their names; `webapp` means both colors, and no name means all programs.

    Raises:
        SetupError: there are none, or none of that name.
    """
    files = {path.stem: path for path in sorted(log_dir.glob("*.log"))}
    if not files:
        raise SetupError(f"there are no logs in {log_dir}; with RERANK_LOG_TO=stdout all lines are on serve's stdout")
    chosen: list[Path] = []
    for name in programs:
        found = [path for stem, path in files.items() if name in {stem, stem.partition("-")[0]}]
        if not found:
            raise SetupError(f"there is no log of {name!r}; there are logs of {', '.join(files)}")
        chosen += [path for path in found if path not in chosen]
    return chosen or list(files.values())


def last(files: Iterable[Path], most: int, wanted: Callable[[str], bool]) -> list[str]:
    """Return the last lines that are wanted, of all files in order of time. Reads rotated files as needed."""
    found = [line for file in files for line in _last_of(file, most, wanted)]
    found.sort(key=_time_of)  # stable: lines of one program and one millisecond stay as they were written
    return found[len(found) - most :] if most < len(found) else found


def follow(
    files: Iterable[Path], wanted: Callable[[str], bool], sleep: Callable[[float], None] = time.sleep
) -> Iterator[str]:
    """Yield new lines as they are appended, until the caller stops.

    Args:
        files: the log files; supervisor renames them when they are full, and begins new ones.
        wanted: returns whether to yield a line.
        sleep: waits between two reads.
    """
    tails = [_appended(file) for file in files]
    for tail in tails:
        next(tail)  # now they are at the files' ends
    while True:
        lines = [line for tail in tails for line in next(tail) if wanted(line)]
        yield from sorted(lines, key=_time_of)
        sleep(POLL_S)


def _appended(path: Path) -> Iterator[list[str]]:
    """Yield the lines that were appended to a file since the last time, over its rotations; at first none."""
    file, part = _open(path), ""
    if file:
        file.seek(0, 2)
    try:
        while True:
            if file := file or _open(path):
                part += file.read()
                for newer in _newer(path, file):
                    part += file.read()  # written between the read and the rename
                    file.close()
                    file = newer
                    part += file.read()
            *lines, part = part.split("\n")
            yield lines
    finally:
        if file:
            file.close()


def _newer(path: Path, file: IO[str]) -> list[IO[str]]:
    """Open the files of a log that were begun after one of them, oldest first; the newest where that one is gone."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == _inode(file):
            return []
    files = _open_all(path)
    inodes = [_inode(each) for each in files]
    count = inodes.index(_inode(file)) if _inode(file) in inodes else 1
    for older in files[count:]:
        older.close()
    return files[:count][::-1]


def _open_all(path: Path) -> list[IO[str]]:
    """Open the files of a log, newest first; each once, though one may be renamed meanwhile."""
    rotated = sorted(path.parent.glob(f"{path.name}.[0-9]*"), key=lambda each: int(each.suffix[1:]))
    opened: dict[int, IO[str]] = {}
    for each in (path, *rotated):
        if (file := _open(each)) and opened.setdefault(_inode(file), file) is not file:
            file.close()
    return list(opened.values())


def _open(path: Path) -> IO[str] | None:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _inode(file: IO[str]) -> int:
    return os.fstat(file.fileno()).st_ino


def _last_of(path: Path, most: int, wanted: Callable[[str], bool]) -> list[str]:
    """Return the last lines of one program; reads the newest file first, until there are enough."""
    found: list[str] = []
    files = _open_all(path)
    with contextlib.ExitStack() as opened:
        for file in files:
            opened.enter_context(file)
        for file in files:
            if len(found) >= most:
                break
            ended = (line.rstrip("\n") for line in file)
            found = [*deque((line for line in ended if wanted(line)), maxlen=most - len(found)), *found]
    return found


def _time_of(line: str) -> str:
    """Return a key to sort lines by time: ISO 8601 in UTC, with which lines that are no JSON begin."""
    event = ours(line)
    return str(event["time"]) if event else line
