"""Processes of the stack: none outlives it, whatever dies first and however.

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
from typing import Any

WITH_PARENT = ("setpriv", "--pdeathsig", "TERM")
"""Prefix of a command that gets TERM when we die, also by SIGKILL. From util-linux; kept across exec, lost at fork."""

POLL_S = 0.05

_PR_SET_CHILD_SUBREAPER = 36

IDLE_S = 0.2
"""After nginx' http block closed its last connection: the stream block passes on what was sent within that time."""

_LISTENS = " 00010000 "
"""How /proc/net/unix marks a socket that listens."""


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, in place of the system's first process."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether a condition became true within a time."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(POLL_S)
    return True


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, zombies included."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_line(pid: int) -> bytes:
    """Return the command line of a process; empty when it has ended, be it a zombie still."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


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
    """Reap orphans that ended, and return the pids of those that live; `own` is a child that is no orphan."""
    alive = []
    for child in children(os.getpid()):
        with contextlib.suppress(ChildProcessError):
            if child != own and os.waitpid(child, os.WNOHANG) == (0, 0):
                alive.append(child)
    return alive


def end_orphans(own: int, patience_s: float, hurry: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
    """Wait until orphans, which got their signal, have finished their requests; kill them when the time is over.

    Args:
        own: a child that is no orphan.
        patience_s: longest time they get.
        hurry: returns whether to wait no longer.
        meanwhile: called again and again.
    """
    give_up = time.monotonic() + patience_s
    while alive := reap(own):
        if time.monotonic() > give_up or hurry():
            kill_groups(alive)
        meanwhile()
        time.sleep(POLL_S)


def kill_groups(pids: list[int]) -> None:
    """Kill programs with their process groups; supervisor gives each program a group of its own."""
    for pid in pids:
        with contextlib.suppress(OSError):
            group = os.getpgid(pid)
            if group != os.getpgrp():  # never our own
                os.killpg(group, signal.SIGKILL)


class Signals:
    """Handlers of INT, TERM and HUP. They only note the signal, and pass it on to a child, if there is one.

    INT and TERM stop the child, a second one kills the child's own children.
    """

    def __init__(self) -> None:
        self.stops = 0
        """How often we were asked to stop."""
        self.reload = False
        """Whether HUP came."""
        self._process: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGINT, self._handle_stop)
        signal.signal(signal.SIGTERM, self._handle_stop)
        signal.signal(signal.SIGHUP, self._handle_reload)

    def forward_to(self, process: subprocess.Popen[bytes]) -> None:
        """Stop this child at INT and TERM, in place of the one before."""
        self._process = process
        if self.stops:  # the signal came before there was anything to stop
            process.terminate()

    def _handle_reload(self, _number: int, _frame: Any) -> None:
        self.reload = True

    def _handle_stop(self, _number: int, _frame: Any) -> None:
        self.stops += 1
        if self._process is not None and self._process.poll() is None:
            if self.stops == 1:
                self._process.terminate()
            else:
                kill_groups(children(self._process.pid))


class NginxShutdown:
    """Ends an nginx that was told to quit, once all requests are answered.

    Its stream module waits for each client to close its side too, and a client with an idle connection may never do so.
    """

    def __init__(self, run_dir: Path, find: Callable[[], int] = int) -> None:
        """Read nginx' configuration, which says whether it has a stream block.

        Args:
            run_dir: of the stack.
            find: returns nginx' pid, or 0; used when the pid file is gone, with the whole run directory.
        """
        self._run_dir = run_dir
        self._find = find
        self._has_stream = False
        with contextlib.suppress(OSError):
            self._has_stream = "\nstream {" in (run_dir / "nginx.conf").read_text()
        self._idle_since: float | None = None

    def step(self) -> None:
        """End nginx if its http block has had no connection for `IDLE_S`, so that all replies have reached the kernel.

        Does nothing without a stream block: then nginx ends with its last request by itself.
        """
        if not self._has_stream or not self._is_idle():
            self._idle_since = None
            return
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= IDLE_S:
            with contextlib.suppress(OSError):
                if (pid := self._pid()) and b"nginx" in command_line(pid):
                    os.kill(pid, signal.SIGTERM)

    def _pid(self) -> int:
        try:
            return int((self._run_dir / "nginx.pid").read_text())
        except (OSError, ValueError):
            return self._find()

    def _is_idle(self) -> bool:
        inside = f" {self._run_dir}/nginx/"
        try:
            lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
        except OSError:  # hidden here: nginx waits as long as it may
            return False
        return not any(inside in line and _LISTENS not in line for line in lines)
