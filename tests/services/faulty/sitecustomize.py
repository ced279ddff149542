"""Put this folder on PYTHONPATH and the stub engine does what a request's query says: raise, hang, nan, length, slow.

"until PATH" makes the file PATH.began, and goes on when there is one at PATH.

What it raises quotes the texts, as some libraries do: they must get into no log.
"""

import time
from pathlib import Path

import numpy as np

from webapp.engine.runtimes.stub import StubSession

_score = StubSession.score


def _faulty(self, pairs, length):
    match pairs[0][0]:
        case "raise":
            raise RuntimeError(f"boom, while {pairs} was scored")
        case "hang":
            time.sleep(3600)
        case "nan":
            return np.full(len(pairs), np.nan, np.float32)
        case "length":
            return np.zeros(len(pairs) + 1, np.float32)
        case "slow":
            time.sleep(0.2)
        case query if query.startswith("until "):
            go_on = Path(query.removeprefix("until "))
            go_on.with_suffix(".began").touch()
            while not go_on.exists():
                time.sleep(0.02)
    return _score(self, pairs, length)


StubSession.score = _faulty
