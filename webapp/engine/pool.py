"""Native engine threads: each opens a session of its own and works until there is no more work."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from webapp.domain.types import Session
from webapp.engine.base import Engine

NICE = 5
"""Everything else of the stack goes before the engine: little work each, and somebody waits for it. So at full load too
health, refusals and a new process that starts (a release, a rollback, a worker that died) are quick."""


class EnginePool:
    """N native threads, one single-threaded forward pass each: on a CPU this beats one pass split over N threads."""

    def __init__(
        self, engine: Engine, step: Callable[[Session], bool], *, threads: int, start_thread: Callable[..., Any]
    ) -> None:
        """Make a pool; nothing runs before `start`.

        Args:
            engine: opens a session for each thread.
            step: waits for work and does it with the thread's session; returns False when no more will come.
            threads: how many.
            start_thread: starts a native thread.
        """
        self._engine = engine
        self._step = step
        self._threads = threads
        self._start_thread = start_thread
        self.died = 0
        """Threads that ended though there was work to come."""

    def start(self) -> None:
        """Compile the model in the calling thread, then start the threads. After the fork, never before."""
        self._engine.start(self._threads)
        sessions = [self._engine.open_session() for _ in range(self._threads)]
        for session in sessions:
            # One after the other: OpenVINO's binding sets up tables at first use, under a C++ guard inside which it
            # waits for the interpreter lock. Two threads at that point at once wait for each other for ever.
            _score_once(session)
        for session in sessions:
            self._start_thread(self._run, (session,))

    def _run(self, session: Session) -> None:
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, 0, NICE)  # of this thread alone, on Linux
        goes_on = True
        try:
            while goes_on:
                goes_on = self._step(session)
        finally:
            self.died += goes_on


def _score_once(session: Session) -> None:
    query = session.encode_query("query")
    ids, lengths, _ = session.encode_documents(query, ["document"])
    session.score([(query, ids[0])], int(lengths[0]))
