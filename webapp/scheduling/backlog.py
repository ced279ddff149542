"""Tickets that wait, running sums over them, and how planned work is taken out. Used under the scheduler's lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sortedcontainers import SortedList

from webapp.scheduling.batching import Batch, TokeniseChunk, padded
from webapp.scheduling.order import Order
from webapp.scheduling.ticket import CHARS_PER_TOKEN, Ticket, weigh


@dataclass(frozen=True, slots=True)
class BatchWork:
    """A batch whose pairs are taken: its tickets and their documents, in the order of the rows."""

    rows: tuple[tuple[Ticket, list[int]], ...]
    length: int


class Backlog:
    """The tickets that wait, in order, and sums over all tickets of the queue."""

    def __init__(self, one_round_tokens: int) -> None:
        """Begin empty; see `Order`."""
        self.order = Order(one_round_tokens)
        self.pairs = 0
        """Admitted and not yet scored."""
        self.unread_chars = 0
        self.ready_tokens = 0
        self._served: dict[str, int] = {}
        """Client with tickets -> padded tokens it was served; a new one begins level with the least served."""
        self._least_served = SortedList()
        """(tokens, client) of the same."""
        self._tickets: Counter[str] = Counter()
        """Client -> its tickets."""

    @property
    def tokens(self) -> int:
        """Padded tokens that wait for an engine thread; an estimate where documents are unread."""
        return self.ready_tokens + self.unread_chars // CHARS_PER_TOKEN

    def add(self, ticket: Ticket) -> None:
        """Add a whole ticket."""
        self.pairs += len(ticket.documents)
        self.unread_chars += ticket.unread_chars
        if ticket.client not in self._served:
            self._serve(ticket.client, self._least_served[0][0] if self._least_served else 0)
        self._tickets[ticket.client] += 1
        self.order.add(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket, with what of it still waits."""
        self.pairs -= len(ticket.documents) - ticket.scored
        self.unread_chars -= ticket.unread_chars
        self.ready_tokens -= ticket.ready_tokens
        self.order.remove(ticket)
        self._tickets[ticket.client] -= 1
        if not self._tickets[ticket.client]:
            del self._tickets[ticket.client]
            self._least_served.remove((self._served.pop(ticket.client), ticket.client))
            self.order.forget(ticket.client)

    def read(self, ticket: Ticket, lengths: Iterable[tuple[int, int]]) -> None:
        """Record that documents of a ticket were tokenised.

        Args:
            ticket: the documents' ticket.
            lengths: (index of the document, tokens of its pair).
        """
        for index, tokens in lengths:
            ticket.ready.setdefault(padded(tokens), []).append(index)
            ticket.ready_tokens += padded(tokens)
            self.ready_tokens += padded(tokens)
        self.order.update(ticket)

    def take(self, plan: TokeniseChunk | Batch, now: float) -> TokeniseChunk | BatchWork:
        """Take planned work out, for an engine thread."""
        return self._take_chunk(plan, now) if isinstance(plan, TokeniseChunk) else self._take_batch(plan, now)

    def _take_chunk(self, chunk: TokeniseChunk, now: float) -> TokeniseChunk:
        ticket = chunk.ticket
        ticket.phases.change(now, chunks=1)
        ticket.unread = chunk.stop
        chars = weigh(ticket.documents[chunk.start : chunk.stop], ticket.longest_chars)
        ticket.unread_chars -= chars
        self.unread_chars -= chars
        self.order.update(ticket)
        return chunk

    def _take_batch(self, batch: Batch, now: float) -> BatchWork:
        rows = []
        served: dict[str, int] = {}
        for pick in batch.picks:
            ticket = pick.ticket
            ticket.phases.change(now, batches=1)
            waiting = ticket.ready[pick.length]
            rows.append((ticket, waiting[-pick.count :]))
            del waiting[-pick.count :]
            if not waiting:
                del ticket.ready[pick.length]
            ticket.ready_tokens -= pick.count * pick.length
            self.ready_tokens -= pick.count * pick.length
            served[ticket.client] = served.get(ticket.client, 0) + pick.count * pick.length
            self.order.update(ticket)
        for client, tokens in served.items():
            self._serve(client, tokens)
        return BatchWork(tuple(rows), batch.length)

    def _serve(self, client: str, tokens: int) -> None:
        before = self._served.get(client)
        if before is not None:
            self._least_served.remove((before, client))
        served = self._served[client] = (before or 0) + tokens
        self._least_served.add((served, client))
        self.order.serve(client, served)
