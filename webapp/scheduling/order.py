"""The order in which waiting tickets go; see the laws of `batching`. Used under the scheduler's lock, reads no clock.

Few tickets are sorted when they are asked for, which is quicker than to keep them sorted. Many are kept in an `Index`:
there a change or a question takes a few steps for 50,000 tickets as for ten.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from sortedcontainers import SortedList

from webapp.scheduling.ticket import Ticket

FEW = 8
"""Tickets; of so many, sorting all takes about as long as keeping the index."""

EVERY_LENGTH: Final = 0
"""The line of every ticket; each other line has a padded length, and small tickets with ready pairs of it."""

Rank = tuple[int, int, int]
"""The order among one client's tickets: priority, size class, number. Less goes first."""

Head = tuple[int, int, int, int, str]
"""The order among all tickets: priority, size class, rounds that the client was served, number; then the client."""

NUMBER: Final = 3
"""Where a ticket's number is in its `Head`."""

Position = tuple[Rank, tuple[int, ...], int, int]
"""Where a waiting ticket is in the index: rank, lines, remaining tokens, and ready tokens if it is small."""

NOWHERE: Final[Position] = (0, 0, -1), (), 0, 0
"""The position of a ticket that is not in the index."""


class Order:
    """All tickets of the queue. A ticket waits while it has unread documents, or pairs that are in no batch."""

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
        self._positions: dict[int, Position] = {}
        self._changed: dict[int, Ticket] = {}
        """Tickets that the index does not have, or has at an old position."""

    def add(self, ticket: Ticket) -> None:
        """Add the youngest ticket; `serve` must have been called for its client."""
        self._tickets[ticket.number] = ticket
        self.update(ticket)

    def update(self, ticket: Ticket) -> None:
        """Note that a ticket changed."""
        self._changed[ticket.number] = ticket

    def remove(self, ticket: Ticket) -> None:
        """Forget a ticket."""
        self._move(ticket, NOWHERE)
        self._changed.pop(ticket.number, None)
        del self._tickets[ticket.number]

    def serve(self, client: str, served_tokens: int) -> None:
        """Note how many tokens a client was served in all."""
        rounds = served_tokens // self._one_round_tokens
        old = self._rounds.get(client)
        self._rounds[client] = rounds
        if old is not None and rounds != old:
            self._index.serve(client, old, rounds)

    def forget(self, client: str) -> None:
        """Forget a client that has no tickets."""
        del self._rounds[client]

    def size_class(self, remaining_tokens: int) -> int:
        """Return 0 for less than one round, then orders of two. Tickets of a smaller class go first."""
        return (remaining_tokens // self._one_round_tokens).bit_length()

    def is_small(self, ticket: Ticket) -> bool:
        """Return whether less than one round remains of a ticket, so that its pairs may join those of others."""
        return ticket.remaining_tokens < self._one_round_tokens

    @property
    def oldest(self) -> Ticket | None:
        """The waiting ticket that came first; None when no ticket waits."""
        for ticket in self._tickets.values():
            if ticket.waits:
                return ticket
        return None

    @property
    def first(self) -> Ticket:
        """The ticket whose turn it is; one must wait."""
        if self._are_many:
            return self._tickets[self._updated_index().first()[NUMBER]]
        waiting = self._waiting()
        return waiting[0] if len(waiting) == 1 else min(waiting, key=self._head)

    @property
    def small_ready_tokens(self) -> int:
        """Tokens of the ready pairs of all small tickets."""
        if self._are_many:
            return self._updated_index().small_ready_tokens
        return sum([ticket.ready_tokens for ticket in self._waiting() if self.is_small(ticket)])

    def small(self, lengths: Iterable[int]) -> Iterator[Ticket]:
        """Yield small tickets with ready pairs of any of these padded lengths, in order."""
        if self._are_many:
            yield from (self._tickets[head[NUMBER]] for head in self._updated_index().small(lengths))
        else:
            yield from sorted(filter(self.is_small, self._waiting()), key=self._head)

    def tokens_before(self, priority: int, tokens: int) -> int:
        """Return how many tokens go before a ticket of this size that comes now."""
        size = self.size_class(tokens)
        if self._are_many:
            return self._updated_index().tokens_before(priority, size)
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

    def _updated_index(self) -> Index:
        """Return the index with all changes."""
        for ticket in self._changed.values():
            self._move(ticket, self._position(ticket))
        self._changed.clear()
        return self._index

    def _position(self, ticket: Ticket) -> Position:
        if not ticket.waits:
            return NOWHERE
        if self.is_small(ticket):
            lines = EVERY_LENGTH, *ticket.ready
            return self._rank(ticket), lines, ticket.remaining_tokens, ticket.ready_tokens
        return self._rank(ticket), (EVERY_LENGTH,), ticket.remaining_tokens, 0

    def _move(self, ticket: Ticket, new: Position) -> None:
        old = self._positions.pop(ticket.number, NOWHERE)
        if new != NOWHERE:
            self._positions[ticket.number] = new
        if new != old:
            self._index.move(ticket.client, self._rounds[ticket.client], old, new)


class Index:
    """Lines of tickets, and sums over them. `Order` knows each ticket's position."""

    def __init__(self) -> None:
        self._lines: defaultdict[int, Line] = defaultdict(Line)
        self._tokens: dict[tuple[int, int], int] = {}
        """(priority, size class) -> remaining tokens."""
        self.small_ready_tokens = 0

    def move(self, client: str, rounds: int, old: Position, new: Position) -> None:
        """Move one ticket of a client that was served so many rounds."""
        old_rank, old_lines, old_tokens, old_ready_tokens = old
        rank, lines, tokens, ready_tokens = new
        self.small_ready_tokens += ready_tokens - old_ready_tokens
        self._count(old_rank, -old_tokens)
        self._count(rank, tokens)
        for line in old_lines:
            if rank != old_rank or line not in lines:
                self._lines[line].remove(client, old_rank, rounds)
        for line in lines:
            if rank != old_rank or line not in old_lines:
                self._lines[line].add(client, rank, rounds)

    def serve(self, client: str, old_rounds: int, rounds: int) -> None:
        """Move all tickets of a client that was served more."""
        for line in self._lines.values():
            line.move(client, old_rounds, rounds)

    def first(self) -> Head:
        """Return the ticket whose turn it is; one must be here."""
        return self._lines[EVERY_LENGTH].first()

    def small(self, lengths: Iterable[int]) -> Iterator[Head]:
        """Yield small tickets with ready pairs of any of these padded lengths, in order."""
        before = None
        for head in heapq.merge(*[self._lines[length] for length in lengths if length in self._lines]):
            if head != before:  # a ticket may stand in several lines, in each at the same place
                yield head
            before = head

    def tokens_before(self, priority: int, size_class: int) -> int:
        """Return the remaining tokens of tickets that go before a ticket that comes now."""
        return sum(tokens for place, tokens in self._tokens.items() if place <= (priority, size_class))

    def _count(self, rank: Rank, tokens: int) -> None:
        place = rank[:2]
        total = self._tokens.get(place, 0) + tokens
        if total:
            self._tokens[place] = total
        else:
            self._tokens.pop(place, None)


class Line:
    """Tickets sorted by `Head`. Each client's first ticket stands in the line, its others stand behind that one.

    So a client whose rounds change moves one entry, not one for each of its tickets.
    """

    def __init__(self) -> None:
        self._ranks: dict[str, Any] = {}
        """Client -> its tickets, sorted."""
        self._line = SortedList()

    def add(self, client: str, rank: Rank, rounds: int) -> None:
        """Add a ticket of a client that was served so many rounds."""
        ranks = self._ranks.get(client)
        if ranks is None:
            ranks = self._ranks[client] = SortedList()
        elif rank < ranks[0]:
            self._line.remove(head_of(ranks[0], rounds, client))
        else:
            ranks.add(rank)
            return
        ranks.add(rank)
        self._line.add(head_of(rank, rounds, client))

    def remove(self, client: str, rank: Rank, rounds: int) -> None:
        """Remove a ticket; it must be there."""
        ranks = self._ranks[client]
        first = ranks[0]
        ranks.remove(rank)
        if first == rank:
            self._line.remove(head_of(rank, rounds, client))
            if ranks:
                self._line.add(head_of(ranks[0], rounds, client))
            else:
                del self._ranks[client]

    def move(self, client: str, old_rounds: int, rounds: int) -> None:
        """Move a client, if it is here, to its place after so many rounds."""
        if client in self._ranks:
            first = self._ranks[client][0]
            self._line.remove(head_of(first, old_rounds, client))
            self._line.add(head_of(first, rounds, client))

    def first(self) -> Head:
        """Return the first ticket of a line that is not empty."""
        first: Head = self._line[0]
        return first

    def __iter__(self) -> Iterator[Head]:
        """Yield every ticket in order. A client's tickets are looked at no sooner than its first has its turn."""
        reached: list[tuple[Head, Iterator[Head]]] = []
        for entry in self._line:
            while reached and reached[0][0] < entry:
                yield _take(reached)
            heapq.heappush(reached, (entry, self._behind(entry)))
        while reached:
            yield _take(reached)

    def _behind(self, entry: Head) -> Iterator[Head]:
        *_, rounds, _, client = entry
        return (head_of(rank, rounds, client) for rank in islice(self._ranks[client], 1, None))


def head_of(rank: Rank, rounds: int, client: str) -> Head:
    """Return the sort key of a ticket among all tickets."""
    return rank[0], rank[1], rounds, rank[2], client


def _take(reached: list[tuple[Head, Iterator[Head]]]) -> Head:
    """Take the first ticket of those reached; the next of its client takes its place."""
    head, behind = reached[0]
    following = next(behind, None)
    if following:
        heapq.heapreplace(reached, (following, behind))
    else:
        heapq.heappop(reached)
    return head
