"""Pair scores that all workers share, in Redis: the level below `memory`. Used on the hub's thread only.

Laws: a request waits for Redis no longer than PATIENCE_S, all in all, whatever state that is in; a write never delays a
reply; no failure here reaches a request. After a few failures in a row Redis is left alone for a while.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from webapp.domain.concurrency import Waiter
from webapp.service.cache.memory import PairScore

log = logging.getLogger(__name__)

PATIENCE_S = 0.012
"""Of one call, all its lookups together. A local Redis answers in one or two milliseconds."""

LAST_LOOK_S = 0.001
"""A hub that was busy sees the answer and the end of the patience at once; this lets the answer in."""

KEYS_AT_ONCE = 1000
"""Of one MGET: what the hub can write and read in two milliseconds."""

ENTRIES_AT_ONCE = 250
"""Of one pipeline, for the same reason."""

MOST_LOOKUPS = 32
"""Under way at once; more do without."""

MOST_WAITING = 50_000
"""Scores that wait to be written, about 16 MB; what comes on top is dropped and counted."""

TTL_S = 24 * 3600
"""A score is right as long as its artifact is served, so this only lets go of what nobody asks for."""

TTL_JITTER = 0.1
"""Share by which it varies, so that what was written together does not end together."""


class Store(Protocol):
    """What holds the scores."""

    def ping(self) -> None:
        """Connect."""

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, PairScore]:
        """Return the scores that it has, by key; raise whatever it likes rather than return a wrong one."""

    def set_many(self, entries: Sequence[tuple[bytes, PairScore, int]]) -> None:
        """Keep these: (key, score, seconds to live)."""


class Guard(Protocol):
    """Whether to ask at all; see `webapp.scheduling.breaker`."""

    def allows(self, now: float) -> bool: ...  # noqa: D102
    def succeeded(self) -> None: ...  # noqa: D102
    def failed(self, now: float) -> None: ...  # noqa: D102
    def no_outcome(self, now: float) -> None: ...  # noqa: D102


class Patience:
    """How long one call will still wait for lookups."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self.left_s = seconds


class SharedCache:
    """The second level."""

    def __init__(
        self,
        connect: Callable[[], Store],
        *,
        reads: Guard,
        writes: Guard,
        make_waiter: Callable[[], Waiter],
        spawn: Callable[[Callable[[], None]], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is connected before `start`.

        Args:
            connect: opens the store, in the worker.
            reads: stands before lookups.
            writes: stands before writes; a full Redis still answers lookups.
            make_waiter: for a greenlet that waits.
            spawn: runs something beside the requests.
            clock: monotonic seconds.
        """
        self._connect = connect
        self._store: Store | None = None
        self._reads = reads
        self._writes = writes
        self._make_waiter = make_waiter
        self._spawn = spawn
        self._clock = clock
        self._waiting: dict[bytes, PairScore] = {}
        self._writing = False
        self._looking = 0
        self.hits = 0
        """Pairs."""
        self.misses = 0
        """Pairs, those counted that were not asked for because Redis was left alone."""
        self.failures = 0
        """Lookups and pipelines."""
        self.written = 0
        """Pairs."""
        self.dropped = 0
        """Pairs that were not written."""

    def start(self) -> None:
        """Connect and say how that went; after the fork, in a greenlet of its own. Without it nothing is found."""
        store = self._connect()
        try:
            store.ping()
        except Exception as error:  # noqa: BLE001 - the border: whatever the client raises ends here
            log.warning("Redis can't be used now", extra={"error": type(error).__name__})
        else:
            log.info("Redis shares the scores of pairs")
        self._store = store

    def get_many(self, keys: Sequence[bytes], patience: Patience) -> dict[bytes, PairScore]:
        """The scores that are known, by key, as far as they can be had in time."""
        found: dict[bytes, PairScore] = {}
        for start in range(0, len(keys), KEYS_AT_ONCE):
            part = keys[start : start + KEYS_AT_ONCE]
            scores = self._look(part, patience)
            if scores is None:
                break
            found |= scores
        self.hits += len(found)
        self.misses += len(keys) - len(found)
        return found

    def put_many(self, scores: Mapping[bytes, PairScore]) -> None:
        """Keep these, soon."""
        room = MOST_WAITING - len(self._waiting)
        self._waiting |= dict(itertools.islice(scores.items(), room))
        self.dropped += max(0, len(scores) - room)
        if not self._writing:
            self._writing = True
            self._spawn(self._write)

    def _look(self, keys: Sequence[bytes], patience: Patience) -> dict[bytes, PairScore] | None:
        """Ask once; None when there is no answer in time."""
        store, began = self._store, self._clock()
        if store is None or patience.left_s <= 0 or self._looking >= MOST_LOOKUPS or not self._reads.allows(began):
            return None
        waiter = self._make_waiter()
        answers: list[dict[bytes, PairScore] | Exception] = []

        def look() -> None:
            try:
                answers.append(store.get_many(keys))
            except Exception as error:  # noqa: BLE001 - the border, as above
                answers.append(error)
            self._looking -= 1
            waiter.wake()

        # A greenlet of its own reads the answer to its end, however long that takes: a connection with half an answer
        # in it would give it to the next one who asks.
        self._looking += 1
        self._spawn(look)
        if not waiter.wait(patience.left_s):
            waiter.wait(LAST_LOOK_S)
        patience.left_s -= self._clock() - began
        answer = answers[0] if answers else TimeoutError()
        if isinstance(answer, Exception):
            patience.left_s = 0.0
            self._failed(self._reads, answer)
            return None
        self._reads.succeeded()
        return answer

    def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popitem() for _ in range(min(ENTRIES_AT_ONCE, len(self._waiting)))]
                self._write_batch(batch)
        finally:
            self._writing = False

    def _write_batch(self, batch: Sequence[tuple[bytes, PairScore]]) -> None:
        if self._store is None or not self._writes.allows(self._clock()):
            self.dropped += len(batch)
            return
        try:
            self._store.set_many([(key, score, _ttl_s()) for key, score in batch])
        except Exception as error:  # noqa: BLE001 - the border, as above
            self.dropped += len(batch)
            self._failed(self._writes, error)
        else:
            self.written += len(batch)
            self._writes.succeeded()

    def _failed(self, guard: Guard, error: Exception) -> None:
        self.failures += 1
        log.debug("Redis failed", extra={"error": type(error).__name__})
        guard.failed(self._clock())


def _ttl_s() -> int:
    return round(TTL_S * random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER))  # noqa: S311 - no secret
