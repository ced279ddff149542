"""The tickets of the queue in their order, sums over them, and how planned work is taken out.

See the laws of `batching` for the order. Used under the scheduler's lock, reads no clock. Few tickets are sorted when
they are asked for, which is quicker than to keep them sorted; many are kept in an `Index`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sortedcontainers import SortedList

from webapp.scheduling.batching import Batch, TokeniseChunk, length_class
from webapp.scheduling.index import EVERY_LENGTH, NOWHERE, NUMBER, UNREAD, Head, Index, Position, Rank, head_of
from webapp.scheduling.ticket import CHARS_PER_TOKEN, Ticket, weigh

FEW = 8
"""Tickets; of so many, sorting all takes about as long as keeping the index."""


@dataclass(frozen=True, slots=True)
class BatchWork:
    """A batch whose pairs are taken: its tickets and their documents, in the order of the rows."""

    rows: list[tuple[Ticket, list[int]]]
    length: int
    """Tokens that each row is given."""
    tokens: int
    """What the engine computes of it."""


class Backlog:
    """All tickets of the queue. A ticket waits while it has unread documents, or pairs that are in no batch."""

    def __init__(
        self, one_round_tokens: int, *, padded: bool = True, reads_ahead: bool = False, few: int = FEW
    ) -> None:
        """Begin empty.

        Args:
            one_round_tokens: what all batches that are computed at once hold together.
            padded: whether a pair costs as much as the longest of its batch, since the engine pads it so.
            reads_ahead: whether threads read tickets of any size while others compute.
            few: most tickets that are sorted when they are asked for.
        """
        self._one_round_tokens = one_round_tokens
        self.padded = padded
        self._reads_ahead = reads_ahead
        self._few = few
        self.tickets: OrderedDict[int, Ticket] = OrderedDict()
        """Tickets by their numbers, the oldest first."""
        self.pairs = 0
        """Admitted and not yet scored."""
        self._unread_chars = 0
        self.ready_tokens = 0
        """What all pairs cost that were tokenised and wait for a batch."""
        self._served: dict[str, int] = {}
        """Client with tickets -> tokens it was served; a new one begins level with the least served."""
        self._least_served = SortedList()
        """(tokens, client) of the same."""
        self._clients: Counter[str] = Counter()
        """Client -> its tickets."""
        self._index = Index()
        self._positions: dict[int, Position] = {}
        self._changed: dict[int, Ticket] = {}
        """Tickets that the index does not have, or has at an old position."""

    @property
    def tokens(self) -> int:
        """Tokens that wait for an engine thread; an estimate where documents are unread."""
        return self.ready_tokens + self._unread_chars // CHARS_PER_TOKEN

    def longest_wait_s(self, now: float) -> float:
        """Return the longest that one of the tickets that wait now has waited; 0 where none waits."""
        return max((ticket.phases.waiting_s(now) for ticket in self.tickets.values()), default=0.0)

    def add(self, ticket: Ticket) -> None:
        """Add the youngest ticket."""
        self.tickets[ticket.number] = self._changed[ticket.number] = ticket
        self.pairs += len(ticket.documents)
        self._unread_chars += ticket.unread_chars
        self.ready_tokens += ticket.ready_tokens
        self._clients[ticket.client] += 1
        if ticket.client not in self._served:
            self.serve(ticket.client, self._least_served[0][0] if self._least_served else 0)

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket, with what of it still waits."""
        self._move(ticket, NOWHERE)
        self._changed.pop(ticket.number, None)
        del self.tickets[ticket.number]
        self.pairs -= len(ticket.documents) - ticket.scored
        self._unread_chars -= ticket.unread_chars
        self.ready_tokens -= ticket.ready_tokens
        self._clients[ticket.client] -= 1
        if not self._clients[ticket.client]:
            del self._clients[ticket.client]
            self._least_served.remove((self._served.pop(ticket.client), ticket.client))

    def add_ready(self, ticket: Ticket, lengths: Iterable[tuple[int, int]]) -> None:
        """Add pairs of a ticket that were tokenised; they wait for a batch.

        Args:
            ticket: the pairs' ticket.
            lengths: (index of the document, tokens of its pair).
        """
        for index, tokens in lengths:
            length = length_class(tokens)
            cost = length if self.padded else tokens
            ticket.ready.setdefault(length, []).append(index)
            ticket.ready_tokens += cost
            self.ready_tokens += cost
        self._changed[ticket.number] = ticket

    def take(self, plan: TokeniseChunk | Batch, now: float) -> TokeniseChunk | BatchWork:
        """Take planned work out, for an engine thread."""
        return self._take_chunk(plan, now) if isinstance(plan, TokeniseChunk) else self._take_batch(plan, now)

    def _take_chunk(self, chunk: TokeniseChunk, now: float) -> TokeniseChunk:
        ticket = chunk.ticket
        ticket.phases.change(now, chunks=1)
        ticket.unread = chunk.stop
        chars = weigh(ticket.documents[chunk.start : chunk.stop], ticket.longest_chars)
        ticket.unread_chars -= chars
        self._unread_chars -= chars
        self._changed[ticket.number] = ticket
        return chunk

    def _take_batch(self, batch: Batch, now: float) -> BatchWork:
        rows = []
        all_tokens = 0
        served: dict[str, int] = {}
        for pick in batch.picks:
            ticket = pick.ticket
            ticket.phases.change(now, batches=1)
            waiting = ticket.ready[pick.length]
            taken = waiting[-pick.count :]
            rows.append((ticket, taken))
            del waiting[-pick.count :]
            if not waiting:
                del ticket.ready[pick.length]
            tokens = pick.count * pick.length if self.padded else int(ticket.lengths[taken].sum())
            all_tokens += pick.count * batch.length if self.padded else tokens
            ticket.ready_tokens -= tokens
            self.ready_tokens -= tokens
            served[ticket.client] = served.get(ticket.client, 0) + tokens
            self._changed[ticket.number] = ticket
        for client, tokens in served.items():
            self.serve(client, tokens)
        return BatchWork(rows, batch.length, all_tokens)

    def serve(self, client: str, tokens: int) -> None:
        """Record that a client with tickets was served so many more."""
        before = self._served.get(client)
        served = self._served[client] = (before or 0) + tokens
        self._least_served.add((served, client))
        if before is not None:
            self._least_served.remove((before, client))
            rounds = served // self._one_round_tokens
            if rounds != (old := before // self._one_round_tokens):
                self._index.serve(client, old, rounds)

    def size_class(self, remaining_tokens: int) -> int:
        """Return 0 for less than one round, then orders of two. Tickets of a smaller class go first."""
        return (remaining_tokens // self._one_round_tokens).bit_length()

    def is_small(self, ticket: Ticket) -> bool:
        """Return whether less than one round remains of a ticket, so that its pairs may join those of others."""
        return ticket.remaining_tokens < self._one_round_tokens

    @property
    def oldest(self) -> Ticket | None:
        """The waiting ticket that came first; None when no ticket waits."""
        for ticket in self.tickets.values():
            if ticket.waits:
                return ticket
        return None

    @property
    def first(self) -> Ticket:
        """The ticket whose turn it is; one must wait."""
        if self._are_many:
            return self.tickets[self._updated_index().first()[NUMBER]]
        waiting = self._waiting()
        return waiting[0] if len(waiting) == 1 else min(waiting, key=self._head)

    @property
    def small_ready_tokens(self) -> int:
        """Tokens of the ready pairs of all small tickets."""
        if self._are_many:
            return self._updated_index().small_ready_tokens
        return sum([ticket.ready_tokens for ticket in self._waiting() if self.is_small(ticket)])

    def small(self, lines: Iterable[int]) -> Iterator[Ticket]:
        """Yield the small tickets of any of these lines, and perhaps others, in order."""
        if self._are_many:
            yield from (self.tickets[head[NUMBER]] for head in self._updated_index().small(lines))
        else:
            yield from sorted(filter(self.is_small, self._waiting()), key=self._head)

    @property
    def first_unread(self) -> Ticket | None:
        """The first ticket with documents that nobody has read, of any size where threads read ahead, else a small one.

        None if there is none.
        """
        if self._reads_ahead and not self._are_many:
            unread = [ticket for ticket in self.tickets.values() if ticket.unread < len(ticket.documents)]
            return min(unread, key=self._head, default=None)
        return next((ticket for ticket in self.small((UNREAD,)) if ticket.unread < len(ticket.documents)), None)

    def tokens_before(self, priority: int, tokens: int) -> int:
        """Return how many tokens go before a ticket of this size that comes now."""
        size = self.size_class(tokens)
        if self._are_many:
            return self._updated_index().tokens_before(priority, size)
        waiting = [(ticket, self._rank(ticket)) for ticket in self._waiting()]
        return sum(ticket.remaining_tokens for ticket, rank in waiting if rank[:2] <= (priority, size))

    @property
    def _are_many(self) -> bool:
        return len(self.tickets) > self._few

    def _waiting(self) -> list[Ticket]:
        return [ticket for ticket in self.tickets.values() if ticket.waits]

    def _rounds(self, ticket: Ticket) -> int:
        """Return the whole rounds that the ticket's client was served."""
        return self._served[ticket.client] // self._one_round_tokens

    def _rank(self, ticket: Ticket) -> Rank:
        return ticket.priority, self.size_class(ticket.remaining_tokens), ticket.number

    def _head(self, ticket: Ticket) -> Head:
        return head_of(self._rank(ticket), self._rounds(ticket), ticket.client)

    def _updated_index(self) -> Index:
        """Return the index with all changes."""
        for ticket in self._changed.values():
            self._move(ticket, self._position(ticket))
        self._changed.clear()
        return self._index

    def _position(self, ticket: Ticket) -> Position:
        if not ticket.waits:
            return NOWHERE
        small = self.is_small(ticket)
        lines: tuple[int, ...] = (EVERY_LENGTH, *ticket.ready) if small else (EVERY_LENGTH,)
        if (small or self._reads_ahead) and ticket.unread < len(ticket.documents):
            lines += (UNREAD,)
        return self._rank(ticket), lines, ticket.remaining_tokens, ticket.ready_tokens if small else 0

    def _move(self, ticket: Ticket, new: Position) -> None:
        old = self._positions.pop(ticket.number, NOWHERE)
        if new != NOWHERE:
            self._positions[ticket.number] = new
        if new != old:
            self._index.move(ticket.client, self._rounds(ticket), old, new)
