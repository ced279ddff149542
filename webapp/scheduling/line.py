"""Tickets kept in order: to add, remove or find one takes a few steps, however many there are. Plain state."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from sortedcontainers import SortedList

Rank = tuple[int, int, int]
"""What decides among one client's tickets, in this order: priority, size class, number. Less goes first."""

Head = tuple[int, int, int, int, str]
"""What decides among all tickets: priority, size class, rounds that the client was served, number; then the client."""

NUMBER: Final = 3
"""Where a ticket's number is in its `Head`."""


class Line:
    """Tickets by `Head`. Each client's first ticket stands in the line, its others stand behind that one.

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
        """Move a client, if it is here, to where it belongs after so many rounds."""
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
    """Return what decides where a ticket stands among all."""
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
