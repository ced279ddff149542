"""Unix seconds that never jump: the system's clock as it was at the start, and what has passed since.

If the system's clock is set back an hour, plots would else have no points for an hour; if it is set forward, every
worker would look lost.
"""

import time
from pathlib import Path

_BEGAN_AT = time.time() - time.monotonic()


def now() -> float:
    """Return unix seconds."""
    return _BEGAN_AT + time.monotonic()


def age_s(path: Path) -> float:
    """Return how long ago a file was written, by the system's clock, which wrote its date too."""
    return time.time() - path.stat().st_mtime
