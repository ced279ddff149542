"""Plain state behind one native lock; engine threads pull their work from it.

Decide under the lock (`plan_batch`, pure), act outside it, book the outcome under the lock again. Nothing here is
gevent or asyncio, so the same scheduler serves gunicorn, the command line and tests.
"""

from __future__ import annotations

from _queue import SimpleQueue
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from webapp.errors import EngineFailedError, RerankError, UnavailableError
from webapp.scheduling.batching import Batch, TokeniseChunk, padded, plan_batch
from webapp.scheduling.ticket import Ticket


@dataclass(slots=True)
class Totals:
    """What was scored since the start."""

    pairs: int = 0
    batches: int = 0
    batch_tokens: int = 0
    """Padded."""


class Scorer(Protocol):
    """What the scheduler needs of an engine; one for each engine thread."""

    def encode_query(self, query: str) -> Any:
        """Anything the two methods below understand; made once a request."""

    def encode_documents(
        self, query: Any, documents: Sequence[str]
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32], NDArray[np.bool_]]:
        """Token ids of each document, length of each pair in tokens, whether it was truncated."""

    def score(self, pairs: Sequence[tuple[Any, NDArray[np.int32]]], length: int) -> NDArray[np.float32]:
        """Logits of (encoded query, token ids) pairs, each padded to `length` tokens."""


class Scheduler:
    """Queue of tickets. `submit` and `cancel` from anywhere, `step` from engine threads."""

    def __init__(self, *, lock: AbstractContextManager[Any], budget_tokens: int, threads: int) -> None:
        self._lock = lock
        self.budget_tokens = budget_tokens
        self._threads = threads
        self._tickets: dict[int, Ticket] = {}
        self._submitted = 0
        self._passed_over = 0
        self._idle = 0
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._closed = False
        self.totals = Totals()

    def submit(self, query: str, documents: Sequence[str], on_done: Callable[[], None], *, priority: int = 0) -> Ticket:
        """Queue a request.

        Args:
            query: the question.
            documents: at least one.
            on_done: called once, from an engine thread or from `cancel`, when the ticket is done.
            priority: lower goes first.

        Raises:
            UnavailableError: the scheduler was closed.
        """
        ticket = Ticket(self._submitted, query, documents, on_done, priority)
        with self._lock:
            if self._closed:
                raise UnavailableError("the service is stopping")
            ticket.number = self._submitted
            self._submitted += 1
            self._tickets[ticket.number] = ticket
            self._wake_idle()
        return ticket

    def cancel(self, ticket: Ticket, error: RerankError) -> None:
        """Give a ticket up: its waiting pairs are never scored, those in a running batch are forgotten."""
        with self._lock:
            self._finish(ticket, error)

    def close(self) -> None:
        """Refuse new tickets, fail the waiting ones, and let the engine threads end."""
        with self._lock:
            self._closed = True
            for ticket in list(self._tickets.values()):
                self._finish(ticket, UnavailableError("the service is stopping"))
            self._wake_idle()

    @property
    def queued_pairs(self) -> int:
        """Pairs admitted and not yet scored."""
        with self._lock:
            return sum(len(ticket.documents) - ticket.scored for ticket in self._tickets.values())

    @property
    def queued_tokens(self) -> int:
        """Padded tokens that wait for an engine thread; an estimate where documents are unread."""
        with self._lock:
            return sum(ticket.remaining_tokens for ticket in self._tickets.values())

    def step(self, scorer: Scorer) -> bool:
        """Wait for one piece of work and do it; False when the scheduler was closed.

        Never raises for a failing engine: the tickets concerned get the error.
        """
        work = self._next_work()
        if work is None:
            return False
        try:
            if isinstance(work, TokeniseChunk):
                self._tokenise(scorer, work)
            else:
                self._score(scorer, work)
        except Exception as cause:  # noqa: BLE001 - the border: whatever a runtime raises ends here
            tickets = [work.ticket] if isinstance(work, TokeniseChunk) else [ticket for ticket, _ in work.rows]
            with self._lock:
                for ticket in tickets:
                    self._finish(ticket, _engine_failed(cause))
        return True

    def _next_work(self) -> TokeniseChunk | _BatchWork | None:
        while True:
            with self._lock:
                if self._closed:
                    return None
                plan = plan_batch(
                    self._tickets.values(),
                    passed_over=self._passed_over,
                    budget_tokens=self.budget_tokens,
                    threads=self._threads,
                )
                if plan is not None:
                    self._passed_over = 0 if plan.led_by_oldest else self._passed_over + 1
                    return _take_chunk(plan) if isinstance(plan, TokeniseChunk) else _take_batch(plan)
                self._idle += 1
            self._wake.get()

    def _wake_idle(self) -> None:
        while self._idle:
            self._idle -= 1
            self._wake.put(None)

    def _tokenise(self, scorer: Scorer, chunk: TokeniseChunk) -> None:
        ticket = chunk.ticket
        # Two threads may both find no query yet and encode it twice: cheaper than one waiting for the other.
        query = ticket.encoded_query
        if query is None:
            query = ticket.encoded_query = scorer.encode_query(ticket.query)
        token_ids, lengths, truncated = scorer.encode_documents(query, ticket.documents[chunk.start : chunk.stop])
        ticket.token_ids[chunk.start : chunk.stop] = token_ids
        ticket.lengths[chunk.start : chunk.stop] = lengths
        ticket.truncated[chunk.start : chunk.stop] = truncated
        with self._lock:
            for index, length in enumerate(lengths.tolist(), chunk.start):
                ticket.ready.setdefault(padded(length), []).append(index)
                ticket.ready_tokens += padded(length)
            self._wake_idle()

    def _score(self, scorer: Scorer, work: _BatchWork) -> None:
        pairs = [(ticket.encoded_query, ticket.token_ids[index]) for ticket, indexes in work.rows for index in indexes]
        logits = scorer.score(pairs, work.length)
        if logits.shape != (len(pairs),):
            raise ValueError(f"the engine returned {logits.shape} for {len(pairs)} pairs")
        start = 0
        with self._lock:
            self.totals.pairs += len(pairs)
            self.totals.batches += 1
            self.totals.batch_tokens += len(pairs) * work.length
            for ticket, indexes in work.rows:
                part = logits[start : start + len(indexes)]
                start += len(indexes)
                if not np.isfinite(part).all():
                    self._finish(ticket, _engine_failed(ValueError("the engine returned a score that is no number")))
                    continue
                ticket.logits[indexes] = part
                ticket.scored += len(indexes)
                for index in indexes:
                    ticket.token_ids[index] = None  # a large request gives its memory back as it goes
                if ticket.scored == len(ticket.documents):
                    self._finish(ticket, None)

    def _finish(self, ticket: Ticket, error: RerankError | None) -> None:
        """Take a ticket out of the queue and wake its waiter; once, under the lock."""
        if self._tickets.pop(ticket.number, None) is not None:
            ticket.error = error
            ticket.on_done()


@dataclass(frozen=True, slots=True)
class _BatchWork:
    """A batch whose pairs are taken: which documents of which tickets, in the order of the rows."""

    rows: tuple[tuple[Ticket, list[int]], ...]
    length: int


def _take_chunk(chunk: TokeniseChunk) -> TokeniseChunk:
    ticket = chunk.ticket
    ticket.unread = chunk.stop
    ticket.unread_chars -= sum(len(text) for text in ticket.documents[chunk.start : chunk.stop])
    return chunk


def _take_batch(batch: Batch) -> _BatchWork:
    rows = []
    for pick in batch.picks:
        waiting = pick.ticket.ready[pick.length]
        rows.append((pick.ticket, waiting[-pick.count :]))
        del waiting[-pick.count :]
        if not waiting:
            del pick.ticket.ready[pick.length]
        pick.ticket.ready_tokens -= pick.count * pick.length
    return _BatchWork(tuple(rows), batch.length)


def _engine_failed(cause: Exception) -> EngineFailedError:
    error = EngineFailedError("the model could not score this request")
    error.__cause__ = cause
    return error
