"""`reranking drain`: take a running stack out of service so that nobody loses a request.

Order: the workers refuse what comes and `/ready` says 503; balancers notice; then the stack stops as it does on TERM,
which waits for what was admitted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from webapp.errors import SetupError
from webapp.offspring import children
from webapp.settings import STOP_GRACE_S, Settings

POLL_S = 0.1


def drain(settings: Settings, *, notice_s: float, say: Callable[[str], None]) -> None:
    """Drain and stop the stack of these settings; returns once it ended.

    Args:
        settings: `state_dir` says which.
        notice_s: how long `/ready` says 503 before the stack goes away.
        say: told what happens, line by line.

    Raises:
        SetupError: no stack runs there, or it did not end in time.
    """
    lock = settings.run_dir / "serve.lock"
    stack = owner(settings)
    workers = _workers(stack)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGUSR2)
    say(f"{len(workers)} workers admit nothing new, /ready says 503")
    time.sleep(notice_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(stack, signal.SIGTERM)
    give_up = time.monotonic() + 2 * (settings.request_timeout_s + STOP_GRACE_S)  # nginx' turn, then the webapp's
    while not _is_free(lock):
        if time.monotonic() > give_up:
            raise SetupError(f"the stack did not end in time; its pid is {stack}")
        time.sleep(POLL_S)
    say("what was admitted is finished, the stack has ended")


def owner(settings: Settings) -> int:
    """Pid of the `reranking serve` that runs with these settings' state directory.

    Raises:
        SetupError: there is none.
    """
    lock = settings.run_dir / "serve.lock"
    if lock.exists() and not _is_free(lock):
        with contextlib.suppress(ValueError):
            return int(lock.read_text())
    raise SetupError(f"no stack runs in {lock.parent.parent}; set RERANK_STATE_DIR to the one that is meant")


def _is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


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
