"""Put this folder on PYTHONPATH and a green color on the stub engine does what the file `fault` in its state says.

"no room" is for the deploy: it finds no memory.
"""

import os
import time
from pathlib import Path

FAULT = Path(os.environ.get("RERANK_STATE_DIR", "/nowhere")) / "fault"

if "RERANK_COLOUR" not in os.environ and FAULT.exists() and FAULT.read_text() == "no room":
    from webapp.config import resources

    resources.free_bytes = lambda: 50 * 1024**2

if os.environ.get("RERANK_COLOUR") == "green" and "STACK_PYTHON" in os.environ:
    from webapp.engine.runtimes import stub

    WARM_UP = ("query", "is it")
    LEAKED_BYTES = 40 * 1024**2

    _start, _score, _leaked = stub.StubEngine.start, stub.StubSession.score, []

    def _fault():
        return FAULT.read_text() if FAULT.exists() else ""

    def _faulty_start(self, threads):
        if _fault() == "crashes at boot":
            raise RuntimeError("boom")
        if _fault() == "two crash at boot" and os.environ.get("RERANK_WORKERS") == "2":
            raise RuntimeError("boom")
        if _fault() == "never gets ready":
            time.sleep(3600)
        return _start(self, threads)

    def _faulty_score(self, pairs, length):
        match _fault():
            case "leaks":
                _leaked.append(b"x" * LEAKED_BYTES)
            case "fails" if pairs[0][0] not in WARM_UP:
                raise RuntimeError("boom")
            case "is slow":
                time.sleep(0.1)
        return _score(self, pairs, length)

    stub.StubEngine.start = _faulty_start
    stub.StubSession.score = _faulty_score
