"""The tickets of the queue in their order, sums over them, and how planned work is taken out.

See the laws of `batching` for the order. Used under the scheduler's lock, reads no clock. Few tickets are sorted when
they are asked for, which is quicker than to keep them sorted; many are kept in an `Index`.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from sortedcontainers import SortedList

from webapp.scheduling.batching import Batch, TokeniseChunk, length_class
from webapp.scheduling.ticket import CHARS_PER_TOKEN, Ticket, weigh

FEW = 8
"""Tickets; of so many, sorting all takes about as long as keeping the index."""

EVERY_LENGTH: Final = 0
"""The line of every ticket; a line with a length class has small tickets with ready pairs of it."""

UNREAD: Final = -1
"""The line of small tickets with documents that nobody has read."""

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

    def __init__(self, one_round_tokens: int, *, padded: bool = True, few: int = FEW) -> None:
        """Begin empty.

        Args:
            one_round_tokens: what one batch in every engine thread holds.
            padded: whether a pair costs as much as the longest of its batch, since the engine pads it so.
            few: most tickets that are sorted when they are asked for.
        """
        self._one_round_tokens = one_round_tokens
        self.padded = padded
        self._few = few
        self.tickets: OrderedDict[int, Ticket] = OrderedDict()
        """Tickets by their numbers, the oldest first."""
        self.pairs = 0
        """Admitted and not yet scored."""
        self._unread_chars = 0
        self._ready_tokens = 0
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
        return self._ready_tokens + self._unread_chars // CHARS_PER_TOKEN

    def add(self, ticket: Ticket) -> None:
        """Add the youngest ticket."""
        self.tickets[ticket.number] = self._changed[ticket.number] = ticket
        self.pairs += len(ticket.documents)
        self._unread_chars += ticket.unread_chars
        self._ready_tokens += ticket.ready_tokens
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
        self._ready_tokens -= ticket.ready_tokens
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
            self._ready_tokens += cost
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
            self._ready_tokens -= tokens
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
        """The first small ticket with documents that nobody has read; None if there is none."""
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
        if small and ticket.unread < len(ticket.documents):
            lines += (UNREAD,)
        return self._rank(ticket), lines, ticket.remaining_tokens, ticket.ready_tokens if small else 0

    def _move(self, ticket: Ticket, new: Position) -> None:
        old = self._positions.pop(ticket.number, NOWHERE)
        if new != NOWHERE:
            self._positions[ticket.number] = new
        if new != old:
            self._index.move(ticket.client, self._rounds(ticket), old, new)


class Index:
    """Lines of tickets, and sums over them: a change or a question takes a few steps for 50,000 tickets as for ten."""

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
                self._lines[line].change(client, rounds, rounds, old_rank, rank if line in lines else None)
        for line in lines:
            if line not in old_lines:
                self._lines[line].change(client, rounds, rounds, None, rank)

    def serve(self, client: str, old_rounds: int, rounds: int) -> None:
        """Move all tickets of a client that was served more."""
        for line in self._lines.values():
            line.change(client, old_rounds, rounds)

    def first(self) -> Head:
        """Return the ticket whose turn it is; one must be here."""
        return self._lines[EVERY_LENGTH].first()

    def small(self, lines: Iterable[int]) -> Iterator[Head]:
        """Yield the tickets of any of these lines, in order."""
        before = None
        for head in heapq.merge(*[self._lines[line] for line in lines if line in self._lines]):
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

    def change(
        self, client: str, old_rounds: int, rounds: int, remove: Rank | None = None, add: Rank | None = None
    ) -> None:
        """Remove a ticket of a client, add one, and move the client from its place after `old_rounds`, if it is here.

        Args:
            client: their client.
            old_rounds: how many it was served as far as the line knows.
            rounds: how many by now.
            remove: a ticket that is here.
            add: a ticket that is not.
        """
        ranks: Any = self._ranks.get(client) or (SortedList() if add else ())
        before = ranks[0] if ranks else None
        if remove:
            ranks.remove(remove)
        if add:
            ranks.add(add)
            self._ranks[client] = ranks
        first = ranks[0] if ranks else None
        if first == before and rounds == old_rounds:
            return
        if before:
            self._line.remove(head_of(before, old_rounds, client))
        if first:
            self._line.add(head_of(first, rounds, client))
        else:
            self._ranks.pop(client, None)

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
