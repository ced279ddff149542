"""No process that the stack started outlives it, whatever dies first and however.

Downwards: each program asks the kernel for a signal when its parent dies (`WITH_PARENT`, and the same words in
supervisord.conf). Upwards: `reranking serve` takes over what a killed parent leaves behind, waits for it and reaps it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

WITH_PARENT = ("setpriv", "--pdeathsig", "TERM")
"""Before a command: it gets TERM when we die, be it by `kill -9`. From util-linux; kept across exec, lost at fork."""

POLL_S = 0.05

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies; without it, the system's first process does."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(pid: int) -> list[int]:
    """Processes that live, or wait to be reaped."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def handle_stop_signals_in_forks() -> None:
    """Let a forked child of this process end at a stop signal until it has its own handlers. Call this once.

    A child begins with its parent's handlers, which only note a signal for the parent's loop. Without this, a child
    told to stop before it runs its program would never notice, and be waited for until it is killed. For supervisord,
    whose forks become programs, and for gunicorn's master.
    """
    stops = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
    before: set[int] = set()

    def block() -> None:
        before.clear()
        before.update(signal.pthread_sigmask(signal.SIG_BLOCK, stops))

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def reset() -> None:
        for number in stops:
            signal.signal(number, signal.SIG_DFL)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=reset)


def run_and_read(command: Sequence[str], on_line: Callable[[str], object]) -> tuple[int, str]:
    """Run a command, and call `on_line` with each line of its output; return its exit code and its last line."""
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        for line in child.stdout or ():
            last = line.strip()
            on_line(last)
    return child.returncode, last


def reap(own: int) -> list[int]:
    """Let ended orphans go, which would stay as zombies; returns those that live. `own` is waited for elsewhere."""
    alive = []
    for child in children(os.getpid()):
        with contextlib.suppress(ChildProcessError):
            if child != own and os.waitpid(child, os.WNOHANG) == (0, 0):
                alive.append(child)
    return alive


def end_orphans(own: int, patience_s: float, hurry: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
    """Wait for orphans, who had their signal, to finish what they have in hand; then end them.

    Args:
        own: not an orphan.
        patience_s: longest time they get.
        hurry: whether to wait no longer.
        meanwhile: done again and again.
    """
    give_up = time.monotonic() + patience_s
    while alive := reap(own):
        if time.monotonic() > give_up or hurry():
            kill_groups(alive)
        meanwhile()
        time.sleep(POLL_S)


def kill_groups(pids: list[int]) -> None:
    """End programs at once, with their process groups; supervisor gives each one of its own."""
    for pid in pids:
        with contextlib.suppress(OSError):
            group = os.getpgid(pid)
            if group != os.getpgrp():  # never our own
                os.killpg(group, signal.SIGKILL)
