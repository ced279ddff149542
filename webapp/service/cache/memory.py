"""Pair scores in this process's memory, a least-recently-used cache. Used on the hub's thread only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

ENTRY_BYTES = 320
"""A key, a score and their place in the table, measured with tracemalloc."""


class PairScore(NamedTuple):
    """The score of a pair, and what was read of it."""

    logit: float
    truncated: bool
    tokens: int


LOOKUP_S = 0.012
"""Time of one call for all its lookups in Redis together. A local Redis answers in one or two milliseconds."""


class LookupBudget:
    """How long one call may still wait for lookups in the cache that workers share; see `cache.redis`."""

    def __init__(self, seconds: float = LOOKUP_S) -> None:
        self.left_s = seconds


class MemoryCache:
    """A cache of at most `max_bytes` of pair scores."""

    def __init__(self, max_bytes: int) -> None:
        self._entries: OrderedDict[Hashable, PairScore] = OrderedDict()
        self._most_entries = max_bytes // ENTRY_BYTES
        self.hits = 0
        self.misses = 0

    def get_many(self, keys: Iterable[Hashable]) -> dict[Hashable, PairScore]:
        """Return the known scores, by key; counts hits and misses."""
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
        """Return whether all of these are known; counts no hit or miss, and does not mark them as used."""
        return all(key in self._entries for key in keys)

    def known(self, keys: Iterable[Hashable]) -> dict[Hashable, PairScore]:
        """Return the known scores, by key, for a second lookup: counts nothing, and does not mark them as used."""
        return {key: score for key in keys if (score := self._entries.get(key)) is not None}

    def put_many(self, scores: Mapping[Hashable, PairScore]) -> None:
        """Keep these scores; the least recently used make room."""
        self._entries.update(scores)
        while len(self._entries) > self._most_entries:
            self._entries.popitem(last=False)

    @property
    def bytes(self) -> int:
        """Memory in use, approximately."""
        return len(self._entries) * ENTRY_BYTES
