"""`reranking drain`: take a running stack out of service so that nobody loses a request.

Order: the workers refuse what comes and `/ready` says 503; balancers notice; then the stack stops as it does on TERM,
which waits for what was admitted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from webapp.config.settings import Settings
from webapp.stack.instance import end, owner
from webapp.stack.processes import children


def drain(settings: Settings, *, notice_s: float, say: Callable[[str], None]) -> None:
    """Drain and stop the stack of these settings; returns once it ended.

    Args:
        settings: `state_dir` says which.
        notice_s: how long `/ready` says 503 before the stack goes away.
        say: told what happens, line by line.

    Raises:
        SetupError: no stack runs there, or it did not end in time.
    """
    stack = owner(settings)
    workers = _workers(stack)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGUSR2)
    say(f"{len(workers)} workers admit nothing new, /ready says 503")
    time.sleep(notice_s)
    end(settings, stack)
    say("what was admitted is finished, the stack has ended")


def _workers(stack: int) -> list[int]:
    """Gunicorn's workers: children of the one child of supervisord that is gunicorn's master."""
    return [
        worker
        for supervisord in children(stack)
        for program in children(supervisord)
        if b"gunicorn" in _command(program)
        for worker in children(program)
    ]


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
