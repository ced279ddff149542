"""Unix seconds that never jump: the system's clock as it was at the start, and what has passed since.

Somebody who sets the system's clock back an hour would else leave every plot without points for an hour, and one who
sets it forward would have us take every worker for lost.
"""

import time
from pathlib import Path

_BEGAN_AT = time.time() - time.monotonic()


def now() -> float:
    """Unix seconds."""
    return _BEGAN_AT + time.monotonic()


def age_s(path: Path) -> float:
    """Return how long ago a file was written: by the system's clock now and, as that was a moment before, then."""
    return time.time() - path.stat().st_mtime
