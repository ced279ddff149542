"""Unix seconds that never jump: the system's clock as it was at the start, and what has passed since.

Somebody who sets the system's clock back an hour would else leave every plot without points for an hour, and one who
sets it forward would have us take every worker for lost.
"""

import time

_BEGAN_AT = time.time() - time.monotonic()


def now() -> float:
    """Unix seconds."""
    return _BEGAN_AT + time.monotonic()
