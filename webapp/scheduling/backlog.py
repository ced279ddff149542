"""What waits, in sums that are kept rather than counted; and how planned work is taken out of it. Under the lock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from webapp.scheduling.batching import Batch, TokeniseChunk
from webapp.scheduling.ticket import CHARS_PER_TOKEN, Ticket, weigh


@dataclass(frozen=True, slots=True)
class BatchWork:
    """A batch whose pairs are taken: which documents of which tickets, in the order of the rows."""

    rows: tuple[tuple[Ticket, list[int]], ...]
    length: int


@dataclass(slots=True)
class Backlog:
    """Sums over all tickets of the queue."""

    pairs: int = 0
    """Admitted and not yet scored."""
    unread_chars: int = 0
    ready_tokens: int = 0
    served: dict[str, int] = field(default_factory=dict)
    """Client with waiting tickets -> padded tokens it was served; who comes anew begins level with the least served."""
    _tickets: Counter[str] = field(default_factory=Counter)
    """Client -> waiting tickets."""

    @property
    def tokens(self) -> int:
        """Padded tokens that wait for an engine thread; an estimate where documents are unread."""
        return self.ready_tokens + self.unread_chars // CHARS_PER_TOKEN

    def add(self, ticket: Ticket) -> None:
        """A ticket comes in, whole."""
        self.pairs += len(ticket.documents)
        self.unread_chars += ticket.unread_chars
        if ticket.client not in self.served:
            self.served[ticket.client] = min(self.served.values(), default=0)
        self._tickets[ticket.client] += 1

    def remove(self, ticket: Ticket) -> None:
        """A ticket leaves, with what of it still waits."""
        self.pairs -= len(ticket.documents) - ticket.scored
        self.unread_chars -= ticket.unread_chars
        self.ready_tokens -= ticket.ready_tokens
        self._tickets[ticket.client] -= 1
        if not self._tickets[ticket.client]:
            del self._tickets[ticket.client]
            del self.served[ticket.client]

    def take(self, plan: TokeniseChunk | Batch, now: float) -> TokeniseChunk | BatchWork:
        """An engine thread has this in hand from now on."""
        return self._take_chunk(plan, now) if isinstance(plan, TokeniseChunk) else self._take_batch(plan, now)

    def _take_chunk(self, chunk: TokeniseChunk, now: float) -> TokeniseChunk:
        ticket = chunk.ticket
        ticket.phases.change(now, chunks=1)
        ticket.unread = chunk.stop
        chars = weigh(ticket.documents[chunk.start : chunk.stop], ticket.longest_chars)
        ticket.unread_chars -= chars
        self.unread_chars -= chars
        return chunk

    def _take_batch(self, batch: Batch, now: float) -> BatchWork:
        rows = []
        for pick in batch.picks:
            pick.ticket.phases.change(now, batches=1)
            waiting = pick.ticket.ready[pick.length]
            rows.append((pick.ticket, waiting[-pick.count :]))
            del waiting[-pick.count :]
            if not waiting:
                del pick.ticket.ready[pick.length]
            pick.ticket.ready_tokens -= pick.count * pick.length
            self.ready_tokens -= pick.count * pick.length
            self.served[pick.ticket.client] += pick.count * pick.length
        return BatchWork(tuple(rows), batch.length)
