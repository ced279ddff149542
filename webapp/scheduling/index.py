"""Tickets sorted in lines, for a queue of many; `backlog` says when it is used, and what the order means."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

from sortedcontainers import SortedList

EVERY_LENGTH: Final = 0
"""The line of every ticket; a line with a length class has small tickets with ready pairs of it."""

UNREAD: Final = -1
"""The line of tickets with documents that nobody has read: of small ones, or of all where threads read ahead."""

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
