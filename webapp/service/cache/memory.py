"""Pair scores in this process's memory, the longest unused go first. Used on the hub's thread only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

ENTRY_BYTES = 320
"""A key, a score and their place in the table, measured with tracemalloc."""


class PairScore(NamedTuple):
    """What is known of a pair."""

    logit: float
    truncated: bool
    tokens: int


class MemoryCache:
    """At most `max_bytes` of pair scores."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: OrderedDict[Hashable, PairScore] = OrderedDict()
        self._most_entries = max_bytes // ENTRY_BYTES
        self.hits = 0
        self.misses = 0

    def get_many(self, keys: Iterable[Hashable]) -> dict[Hashable, PairScore]:
        """The scores that are known, by key."""
        found: dict[Hashable, PairScore] = {}
        for key in keys:
            score = self._entries.get(key)
            if score is None:
                self.misses += 1
            else:
                self.hits += 1
                found[key] = score
                self._entries.move_to_end(key)
        return found

    def holds(self, keys: Iterable[Hashable]) -> bool:
        """Whether all of these are known; counts no hit or miss, and nothing is the longer kept for it."""
        return all(key in self._entries for key in keys)

    def known(self, keys: Iterable[Hashable]) -> dict[Hashable, PairScore]:
        """As `get_many`, for who has asked before: nothing is counted or moved."""
        return {key: score for key in keys if (score := self._entries.get(key)) is not None}

    def put_many(self, scores: Mapping[Hashable, PairScore]) -> None:
        """Keep these; the longest unused make room."""
        self._entries.update(scores)
        while len(self._entries) > self._most_entries:
            self._entries.popitem(last=False)

    @property
    def bytes(self) -> int:
        """Memory in use, about."""
        return len(self._entries) * ENTRY_BYTES
