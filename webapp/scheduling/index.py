"""The order of many tickets, kept as they change: a plan takes as many steps for 50,000 of them as for ten."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator

from webapp.scheduling.line import Head, Line, Rank

EVERY_LENGTH = 0
"""The line of every ticket; the others have a padded length each, and small tickets with ready pairs of it."""

Standing = tuple[Rank, tuple[int, ...], int, int]
"""Of a ticket that waits: its rank, its lines, its remaining tokens, and its ready tokens if it is small."""

NOWHERE: Standing = (0, 0, -1), (), 0, 0
"""The standing of a ticket that is not here."""


class Index:
    """Lines of tickets, and sums over them. What a ticket's standing is, its owner knows."""

    def __init__(self) -> None:
        self._lines: defaultdict[int, Line] = defaultdict(Line)
        self._tokens: dict[tuple[int, int], int] = {}
        """(priority, size class) -> remaining tokens."""
        self.small_ready_tokens = 0

    def change(self, client: str, rounds: int, old: Standing, new: Standing) -> None:
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
        """Return the remaining tokens of tickets that go before any that comes now."""
        return sum(tokens for place, tokens in self._tokens.items() if place <= (priority, size_class))

    def _count(self, rank: Rank, tokens: int) -> None:
        place = rank[:2]
        total = self._tokens.get(place, 0) + tokens
        if total:
            self._tokens[place] = total
        else:
            self._tokens.pop(place, None)
