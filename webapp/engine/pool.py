"""Native engine threads: each opens a session of its own and works until there is no more work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from webapp.domain.types import Session
from webapp.engine.base import Engine, score_pair

NICE = 5
"""Everything else of the stack goes before the engine: little work each, and somebody waits for it. So at full load too
health, refusals and a new process that starts (a release, a rollback, a worker that died) are quick."""


@dataclass(slots=True)
class EnginePool:
    """N native threads, one single-threaded forward pass each: on a CPU this beats one pass split over N threads."""

    engine: Engine
    step: Callable[[Session], bool]
    """Waits for work and does it with the thread's session; returns False when no more will come."""
    threads: int
    start_thread: Callable[..., Any]
    """Starts a native thread."""
    died: int = 0
    """Threads that ended though there was work to come."""

    def start(self, check: Callable[[Session], None] = lambda _session: None) -> None:
        """Compile the model in the calling thread, then start the threads. After the fork, never before.

        Args:
            check: called with a session that no thread uses yet.
        """
        self.engine.start(self.threads)
        sessions = [self.engine.open_session() for _ in range(self.threads)]
        for session in sessions:
            # One after the other: OpenVINO's binding sets up tables at first use, under a C++ guard inside which it
            # waits for the interpreter lock. Two threads at that point at once wait for each other for ever.
            score_pair(session, "query", "document")
        check(sessions[0])
        for session in sessions:
            self.start_thread(self._run, (session,))

    def _run(self, session: Session) -> None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread alone, on Linux
        goes_on = True
        try:
            while goes_on:
                goes_on = self.step(session)
        finally:
            self.died += goes_on
