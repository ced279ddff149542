"""The queue of tickets that engine threads pull their work from: plain state behind one native lock.

Decide under the lock (`plan_batch`, pure), act outside it, book the outcome under the lock again. Nothing here is
gevent or asyncio, so the same scheduler serves gunicorn, the command line and tests.
"""

from __future__ import annotations

import math
import sys
import time
from _queue import SimpleQueue
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from sortedcontainers import SortedList

from webapp.domain.concurrency import AwakeClock
from webapp.domain.errors import (
    DeadlineExceededError,
    EngineFailedError,
    InvalidRequestError,
    RerankError,
    UnavailableError,
)
from webapp.domain.types import Session
from webapp.scheduling.backlog import Backlog, BatchWork
from webapp.scheduling.batching import LENGTH_STEP, Batch, TokeniseChunk, has_work, plan_batch
from webapp.scheduling.ticket import CHARS_PER_TOKEN, Ticket
from webapp.scheduling.totals import Totals

RATE_MEMORY_S = 5.0
"""What is older than this counts for about a third."""

STANDSTILL_S = 2.0
"""`Watchdog.fault` is called once a second. Longer than this between two calls, the whole process stood still."""


class Rate:
    """Tokens scored a second, as a moving average over the time in which there was work.

    Idle time doesn't count: an idle service is not a slow one.
    """

    def __init__(self, first_tokens_per_s: float = 0.0) -> None:
        """Begin with what is known, such as what `prepare` measured; 0 when nothing is."""
        self._sum = first_tokens_per_s
        self._weight = 1.0 if first_tokens_per_s else 0.0
        self._last = 0.0

    @property
    def tokens_per_s(self) -> float:
        """The average; 0 while nothing is known."""
        return self._sum / self._weight if self._weight else 0.0

    def resume(self, now: float) -> None:
        """Note that work came to an idle service."""
        self._last = now

    def add(self, tokens: int, now: float) -> None:
        """Record tokens that were scored just now."""
        seconds = max(now - self._last, 1e-6)
        self._last = now
        kept = math.exp(-seconds / RATE_MEMORY_S)
        self._sum = self._sum * kept + tokens / seconds * (1 - kept)
        self._weight = self._weight * kept + (1 - kept)


class Scheduler:
    """A queue of tickets. Call `submit` and `cancel` from anywhere, `step` from engine threads."""

    def __init__(
        self,
        *,
        lock: AbstractContextManager[Any],
        budget_tokens: int,
        threads: int,
        padded: bool = True,
        most_batches: int = 0,
        longest_pair_tokens: int = 0,
        first_tokens_per_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty.

        Args:
            lock: native, never patched.
            budget_tokens: cap on what a batch costs; see the laws of `batching`.
            threads: engine threads that will call `step`.
            padded: whether the engine pads the rows of a batch.
            most_batches: how many batches the engine computes at once; 0: one in each thread.
            longest_pair_tokens: what is longer is cut, and costs no more; 0: unknown.
            first_tokens_per_s: what is known of the speed before it is measured.
            clock: monotonic seconds.
        """
        self._lock = lock
        self._clock = clock
        self.longest_chars = longest_pair_tokens * CHARS_PER_TOKEN or sys.maxsize
        self._rate = Rate(first_tokens_per_s)
        one_round_tokens = budget_tokens * (most_batches or threads)
        self._backlog = Backlog(one_round_tokens, padded=padded, reads_ahead=most_batches > 0)
        self._deadlines = SortedList()
        """(deadline, number) of every ticket."""
        self.budget_tokens = budget_tokens
        self.most_batches = most_batches
        self._threads = threads
        self._at_work: dict[int, float] = {}
        """Identity of each piece of work in an engine thread's hands -> when it was taken."""
        self._submitted = 0
        self._passed_over = 0
        self._read_first = 0
        self._idle = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._closed = False
        self._totals = Totals()

    def submit(
        self,
        query: str,
        documents: Sequence[str],
        on_done: Callable[[], None],
        *,
        instruction: str = "",
        priority: int = 0,
        deadline: float = math.inf,
        client: str = "",
    ) -> Ticket:
        """Queue a request.

        Args:
            query: the question.
            documents: at least one.
            on_done: called once, from an engine thread or from `cancel`, when the ticket is done.
            instruction: what makes a document relevant; empty: the model's default.
            priority: lower goes first.
            deadline: what was not scored by then is not scored at all.
            client: the caller; clients share the engine.

        Raises:
            UnavailableError: the scheduler was closed.
        """
        ticket = Ticket(
            0,
            query,
            documents,
            on_done,
            instruction=instruction,
            priority=priority,
            deadline=deadline,
            longest_chars=self.longest_chars,
            client=client,
        )
        with self._lock:
            if self._closed:
                raise UnavailableError("the service is stopping")
            ticket.number = self._submitted
            self._submitted += 1
            ticket.phases.since = now = self._clock()
            if not self._backlog.tickets:
                self._rate.resume(now)
            self._backlog.add(ticket)
            self._deadlines.add((deadline, ticket.number))
            self._wake_one()
        return ticket

    def extend_deadline(self, ticket: Ticket, deadline: float) -> None:
        """Let a ticket wait until this deadline, if that is later than its own."""
        with self._lock:
            if ticket.number in self._backlog.tickets and deadline > ticket.deadline:
                self._deadlines.remove((ticket.deadline, ticket.number))
                ticket.deadline = deadline
                self._deadlines.add((deadline, ticket.number))

    def cancel(self, ticket: Ticket, error: RerankError) -> None:
        """Give a ticket up: its waiting pairs are never scored, those in a running batch are dropped."""
        with self._lock:
            self._finish(ticket, error)

    def close(self) -> None:
        """Refuse new tickets, fail the waiting ones, and let the engine threads end."""
        with self._lock:
            self._closed = True
            for ticket in list(self._backlog.tickets.values()):
                self._finish(ticket, UnavailableError("the service is stopping"))
            while self._idle:
                self._wake_one()

    @property
    def queued_pairs(self) -> int:
        """Pairs admitted and not yet scored."""
        return self._backlog.pairs

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for an engine thread; an estimate where documents are unread."""
        return self._backlog.tokens

    @property
    def queue_age_s(self) -> float:
        """The longest that a request which waits for an engine thread now has waited; 0 where none waits."""
        with self._lock:
            return self._backlog.longest_wait_s(self._clock())

    def queued_tokens_before(self, tokens: int, priority: int) -> int:
        """Return how many of those go before a request of this size that comes now; see the laws of `batching`."""
        with self._lock:
            return self._backlog.tokens_before(priority, tokens)

    @property
    def tokens_per_s(self) -> float:
        """Tokens scored a second while there was work; 0 while nothing is known."""
        return self._rate.tokens_per_s

    @property
    def totals(self) -> Totals:
        """What the engine threads have done up to this moment."""
        with self._lock:
            self._totals.change(self._clock())
        return self._totals

    def step(self, session: Session) -> bool:
        """Wait for one piece of work and do it; return False when the scheduler was closed.

        Never raises for a failing engine: the tickets concerned get the error.
        """
        work = self._next_work()
        if work is None:
            return False
        try:
            if isinstance(work, TokeniseChunk):
                self._tokenise(session, work)
            else:
                self._score(session, work)
        except Exception as cause:  # noqa: BLE001 - the border: whatever a runtime raises ends here
            error: RerankError = _engine_failed(cause)
            tickets = [work.ticket] if isinstance(work, TokeniseChunk) else [ticket for ticket, _ in work.rows]
            if isinstance(work, TokeniseChunk) and isinstance(cause, InvalidRequestError):
                error = cause  # the caller's fault, which is no failure of the engine
            with self._lock:
                self._put_down(work, self._clock())
                self._totals.failures += error is not cause
                for ticket in tickets:
                    self._finish(ticket, error)
        return True

    def longest_step_s(self) -> float:
        """Return for how long the slowest engine thread has been at its piece of work; 0 when all are idle."""
        return max((self._clock() - began for began in list(self._at_work.values())), default=0.0)

    def _next_work(self) -> TokeniseChunk | BatchWork | None:
        while True:
            with self._lock:
                if self._closed:
                    return None
                now = self._clock()
                if not self._totals.threads:
                    self._totals.change(now)
                    self._totals.threads = self._threads
                self._expire(now)
                plan = plan_batch(
                    self._backlog,
                    passed_over=self._passed_over,
                    budget_tokens=self.budget_tokens,
                    threads=self._threads,
                    idle=self._idle,
                    read_first=self._read_first,
                    at_work=self._totals.batches_at_work,
                    most_batches=self.most_batches,
                )
                if plan is not None:
                    self._count(plan)
                    work = self._backlog.take(plan, now)
                    self._take_up(work, now)
                    self._wake_one()
                    return work
                self._idle += 1
            self._wake.get()

    def _take_up(self, work: TokeniseChunk | BatchWork, now: float) -> None:
        """Record that an engine thread has this piece of work in hand."""
        self._at_work[id(work)] = now
        reads = isinstance(work, TokeniseChunk)
        self._totals.change(now, chunks=reads, batches=not reads)

    def _put_down(self, work: TokeniseChunk | BatchWork, now: float) -> None:
        """Record that an engine thread is done with it, well or not. Idempotent: what follows may fail, too."""
        if self._at_work.pop(id(work), None) is not None:
            reads = isinstance(work, TokeniseChunk)
            self._totals.change(now, chunks=-reads, batches=-(not reads))

    def _count(self, plan: TokeniseChunk | Batch) -> None:
        """Count what the next plan must know."""
        if isinstance(plan, TokeniseChunk) and plan.joins:
            self._read_first += 1
            return
        self._passed_over = 0 if plan.led_by_oldest else self._passed_over + 1
        if isinstance(plan, Batch) and plan.led_by_small:
            self._read_first = 0

    def _expire(self, now: float) -> None:
        """Remove tickets whose deadline passed; called between batches."""
        while self._deadlines and self._deadlines[0][0] <= now:
            ticket = self._backlog.tickets[self._deadlines[0][1]]
            self._finish(ticket, DeadlineExceededError("the time was over"))

    def _wake_one(self) -> None:
        """Wake one idle thread if it would get a plan. Each thread that takes work does so: none wakes for nothing."""
        if self._idle and (
            self._closed or has_work(self._backlog, self.budget_tokens, self._totals.batches_at_work, self.most_batches)
        ):
            self._idle -= 1
            self._wake.put(None)

    def _tokenise(self, session: Session, chunk: TokeniseChunk) -> None:
        ticket = chunk.ticket
        # Two threads may both find no query yet and encode it twice: cheaper than one waiting for the other.
        query = ticket.encoded_query
        if query is None:
            query = ticket.encoded_query = session.encode_query(ticket.query, ticket.instruction)
        token_ids, lengths, truncated = session.encode_documents(query, ticket.documents[chunk.start : chunk.stop])
        ticket.token_ids[chunk.start : chunk.stop] = token_ids
        ticket.lengths[chunk.start : chunk.stop] = lengths
        ticket.truncated[chunk.start : chunk.stop] = truncated
        with self._lock:
            now = self._clock()
            self._put_down(chunk, now)
            ticket.phases.change(now, chunks=-1)
            if ticket.number not in self._backlog.tickets:
                return  # given up meanwhile
            self._backlog.add_ready(ticket, enumerate(lengths.tolist(), chunk.start))

    def _score(self, session: Session, work: BatchWork) -> None:
        pairs = [(ticket.encoded_query, ticket.token_ids[index]) for ticket, indexes in work.rows for index in indexes]
        logits = session.score(pairs, work.length)
        if logits.shape != (len(pairs),):
            raise ValueError(f"the engine returned {logits.shape} for {len(pairs)} pairs")
        start = 0
        with self._lock:
            now = self._clock()
            self._put_down(work, now)
            self._totals.add_batch(len(pairs), work.tokens, max(LENGTH_STEP, self.budget_tokens // LENGTH_STEP))
            self._rate.add(work.tokens, now)
            for ticket, indexes in work.rows:
                ticket.phases.change(now, batches=-1)
                part = logits[start : start + len(indexes)]
                start += len(indexes)
                if not np.isfinite(part).all():
                    self._finish(ticket, _engine_failed(ValueError("the engine returned a score that is no number")))
                    continue
                ticket.logits[indexes] = part
                ticket.scored += len(indexes)
                if ticket.number in self._backlog.tickets:
                    self._backlog.pairs -= len(indexes)
                for index in indexes:
                    ticket.token_ids[index] = None  # a large request gives its memory back as it goes
                if ticket.scored == len(ticket.documents):
                    self._finish(ticket, None)

    def _finish(self, ticket: Ticket, error: RerankError | None) -> None:
        """Take a ticket out of the queue and wake its waiter; once, under the lock."""
        if ticket.number in self._backlog.tickets:
            ticket.error = error
            self._deadlines.remove((ticket.deadline, ticket.number))
            self._backlog.remove(ticket)
            ticket.on_done()


class Watchdog:
    """Finds faults that need a new process: a native thread can be neither interrupted nor ended."""

    def __init__(
        self,
        scheduler: Scheduler,
        dead_threads: Callable[[], int],
        *,
        stall_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._dead_threads = dead_threads
        self._stall_s = stall_s
        self._awake = AwakeClock(STANDSTILL_S, clock)

    def fault(self) -> str:
        """Return what is wrong, in words; empty when nothing is. A standstill of the whole process is no fault."""
        awake_s = self._awake.look()
        if died := self._dead_threads():
            return f"{died} engine threads died"
        if (seconds := min(self._scheduler.longest_step_s(), awake_s)) > self._stall_s:
            return f"an engine thread has been at one batch for {seconds:.0f} s, the limit is {self._stall_s:g} s"
        return ""


def _engine_failed(cause: Exception) -> EngineFailedError:
    error = EngineFailedError("the model could not score this request")
    error.__cause__ = cause
    return error
