"""Which tickets wait for an engine thread, in the order in which they go: see the laws of `batching`. Under the lock.

Few tickets are sorted when they are asked for, which is quicker than to keep them sorted. Many are kept in an `Index`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from webapp.scheduling.index import EVERY_LENGTH, NOWHERE, Index, Standing
from webapp.scheduling.line import NUMBER, Head, Rank, head_of
from webapp.scheduling.ticket import Ticket

FEW = 8
"""Tickets; of so many, sorting all takes about as long as keeping the index."""


class Order:
    """All tickets of the queue. Those wait that have documents nobody has read, or pairs that are in no batch."""

    def __init__(self, one_round_tokens: int, *, few: int = FEW) -> None:
        """Begin empty.

        Args:
            one_round_tokens: what one batch in every engine thread holds.
            few: most tickets that are sorted when they are asked for.
        """
        self._one_round_tokens = one_round_tokens
        self._few = few
        self._tickets: OrderedDict[int, Ticket] = OrderedDict()
        """Oldest first."""
        self._rounds: dict[str, int] = {}
        """Client -> whole rounds that it was served."""
        self._index = Index()
        self._standings: dict[int, Standing] = {}
        """Where tickets are in the index."""
        self._changed: dict[int, Ticket] = {}
        """Tickets that the index does not have, or has elsewhere."""

    def add(self, ticket: Ticket) -> None:
        """Add the youngest ticket; `serve` must have been told of its client."""
        self._tickets[ticket.number] = ticket
        self.put(ticket)

    def put(self, ticket: Ticket) -> None:
        """Note that a ticket changed."""
        self._changed[ticket.number] = ticket

    def remove(self, ticket: Ticket) -> None:
        """Forget a ticket."""
        self._place(ticket, NOWHERE)
        self._changed.pop(ticket.number, None)
        del self._tickets[ticket.number]

    def serve(self, client: str, served_tokens: int) -> None:
        """Note what a client was served in all."""
        rounds = served_tokens // self._one_round_tokens
        old = self._rounds.get(client)
        self._rounds[client] = rounds
        if old is not None and rounds != old:
            self._index.serve(client, old, rounds)

    def forget(self, client: str) -> None:
        """Forget a client that has no tickets."""
        del self._rounds[client]

    def size_class(self, remaining_tokens: int) -> int:
        """Tickets of a smaller class go first: 0 for less than one round, then orders of two."""
        return (remaining_tokens // self._one_round_tokens).bit_length()

    def is_small(self, ticket: Ticket) -> bool:
        """Whether less than one round remains of a ticket, so that its pairs may join those of others."""
        return ticket.remaining_tokens < self._one_round_tokens

    @property
    def oldest(self) -> Ticket | None:
        """The ticket that came first of those that wait; None when none does."""
        for ticket in self._tickets.values():
            if ticket.waits:
                return ticket
        return None

    @property
    def first(self) -> Ticket:
        """The ticket whose turn it is; one must wait."""
        if self._are_many:
            return self._tickets[self._up_to_date().first()[NUMBER]]
        waiting = self._waiting()
        return waiting[0] if len(waiting) == 1 else min(waiting, key=self._head)

    @property
    def small_ready_tokens(self) -> int:
        """Tokens of the ready pairs of all small tickets."""
        if self._are_many:
            return self._up_to_date().small_ready_tokens
        return sum([ticket.ready_tokens for ticket in self._waiting() if self.is_small(ticket)])

    def small(self, lengths: Iterable[int]) -> Iterator[Ticket]:
        """Yield small tickets with ready pairs of any of these padded lengths, in order."""
        if self._are_many:
            yield from (self._tickets[head[NUMBER]] for head in self._up_to_date().small(lengths))
        else:
            yield from sorted(filter(self.is_small, self._waiting()), key=self._head)

    def tokens_before(self, priority: int, tokens: int) -> int:
        """Return how many tokens go before a ticket of this size that comes now."""
        size = self.size_class(tokens)
        if self._are_many:
            return self._up_to_date().tokens_before(priority, size)
        waiting = [(ticket, self._rank(ticket)) for ticket in self._waiting()]
        return sum(ticket.remaining_tokens for ticket, rank in waiting if rank[:2] <= (priority, size))

    @property
    def _are_many(self) -> bool:
        return len(self._tickets) > self._few

    def _waiting(self) -> list[Ticket]:
        return [ticket for ticket in self._tickets.values() if ticket.waits]

    def _rank(self, ticket: Ticket) -> Rank:
        return ticket.priority, self.size_class(ticket.remaining_tokens), ticket.number

    def _head(self, ticket: Ticket) -> Head:
        return head_of(self._rank(ticket), self._rounds[ticket.client], ticket.client)

    def _up_to_date(self) -> Index:
        """Return the index with all changes."""
        for ticket in self._changed.values():
            self._place(ticket, self._standing(ticket))
        self._changed.clear()
        return self._index

    def _standing(self, ticket: Ticket) -> Standing:
        if not ticket.waits:
            return NOWHERE
        if self.is_small(ticket):
            lines = EVERY_LENGTH, *ticket.ready
            return self._rank(ticket), lines, ticket.remaining_tokens, ticket.ready_tokens
        return self._rank(ticket), (EVERY_LENGTH,), ticket.remaining_tokens, 0

    def _place(self, ticket: Ticket, new: Standing) -> None:
        old = self._standings.pop(ticket.number, NOWHERE)
        if new != NOWHERE:
            self._standings[ticket.number] = new
        if new != old:
            self._index.change(ticket.client, self._rounds[ticket.client], old, new)
