"""The folder in which processes leave their figures for the exporter. Imports nothing heavy.

One a service (and release slot), on tmpfs where there is one: every count is a write to a mapped file, and a busy disk
would hold requests up.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from webapp.errors import SetupError

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client looks at it when it is imported; supervisor sets it for the webapp."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - anyone may write there, see `folder` # nosec B108


def folder(state_dir: Path, colour: str = "") -> Path:
    """Make the folder for this user alone, and return it.

    Raises:
        SetupError: it can't be made anywhere.
    """
    digest = hashlib.sha256(f"{state_dir}\0{colour}".encode()).hexdigest()[:12]
    for path in (SHARED_MEMORY / f"reranking-{os.getuid()}-{digest}", state_dir / "run" / f"metrics{colour}"):
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            found = path.lstat()
        except OSError:
            continue
        # Whoever made it before us may have made a link, or may read along.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return path
    raise SetupError(f"RERANK_STATE_DIR: {state_dir / 'run'} can't hold a folder for metrics; choose another")


def begin() -> None:
    """A master starts: forget the levels of workers that died with the last one.

    What was counted stays, and so does what another colour's workers tell.
    """
    path = os.environ.get(VARIABLE)
    for file in Path(path).glob("gauge_live*.db") if path else ():
        if not Path(f"/proc/{file.stem.rpartition('_')[2]}").exists():
            file.unlink(missing_ok=True)


def forget(path: Path) -> None:
    """A stack starts: forget what the last one counted."""
    for file in path.glob("*.db"):
        file.unlink(missing_ok=True)


def bury(pid: int) -> None:
    """A worker died, however it did: its levels are gone, its counts stay. In the master."""
    if VARIABLE in os.environ:
        from prometheus_client.multiprocess import mark_process_dead  # noqa: PLC0415 - the stack needs none of it

        mark_process_dead(pid)  # type: ignore[no-untyped-call]
