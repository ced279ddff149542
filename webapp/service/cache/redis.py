"""Pair scores that all workers share, in Redis: the level below `memory`. Imported only where a Redis is configured.

Laws: a request waits for Redis no longer than `memory.LOOKUP_S` in all, whatever state that is in; a write never delays
a reply; no failure here reaches a request. After a few failures in a row Redis is left alone for a while.

A score lies in Redis as 14 bytes under a name of our own. Never a pickle: anyone who can write to Redis could run code
here. As it is they can give wrong scores: keep it private.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis._parsers import _RESP2Parser
from redis._parsers.socket import SocketBuffer
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse
from redis.retry import Retry

from webapp.domain.concurrency import Bridge
from webapp.scheduling.breaker import Breaker
from webapp.service.cache.memory import LookupBudget, PairScore

log = logging.getLogger(__name__)

ANSWER_S = 0.25
"""Longest silence within an answer. No request waits that long; it frees the greenlet that asked."""

WHOLE_ANSWER_S = 1.0
"""Longest time for one answer that comes a few bytes at a time."""

LAST_LOOK_S = 0.001
"""A hub that was busy sees the answer and the end of the budget at once; this lets the answer in."""

KEYS_AT_ONCE = 1000
"""Keys of one MGET: what the hub can write and read in two milliseconds."""

ENTRIES_AT_ONCE = 250
"""Entries of one pipeline, for the same reason."""

MOST_LOOKUPS = 32
"""Lookups under way at once; a request beyond these does without."""

MOST_CONNECTIONS = 40

MOST_ANSWER_BYTES = 64 * 1024
"""Three times the longest answer to our commands."""

MOST_WAITING = 50_000
"""Scores that wait to be written, about 16 MB; more are dropped and counted."""

TTL_S = 24 * 3600
"""A score is right as long as its artifact is served, so this only drops scores that are no longer asked for."""

TTL_JITTER = 0.1
"""Share by which it varies, so that entries written together do not end together."""

VERSION = 2
"""Version of names and values. Another version's values are never read, so releases may share one Redis."""

_NAMESPACE = b"rerank:%d:" % VERSION
_SCORE = struct.Struct("<BfBI")
"""Version, logit (float32, as the engine made it), truncated, tokens; little-endian."""

_SET = b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%b\r\n"
"""Name, value and seconds to live, each after its length."""

_CHECK = struct.Struct("<I")
"""CRC-32 of the key and the score: an answer that came to another question must not be taken for a score."""


class NonsenseError(Exception):
    """Redis answered something that breaks our format or its protocol."""


class SharedCache:
    """The second level of the pair cache. Used on the hub's thread only."""

    def __init__(
        self,
        store: RedisStore,
        bridge: Bridge,
        *,
        reads: Breaker | None = None,
        writes: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin unused; nothing is found before `start`.

        Args:
            store: holds the scores.
            bridge: runs lookups and writes beside the requests.
            reads: breaker of lookups.
            writes: breaker of writes; a full Redis still answers lookups.
            clock: monotonic seconds.
        """
        self._store = store
        self._bridge = bridge
        self._reads = reads or _breaker("lookups")
        self._writes = writes or _breaker("writes")
        self._clock = clock
        self._started = False
        self._waiting: dict[bytes, PairScore] = {}
        self._writing = False
        self._looking = 0

    def start(self) -> None:
        """Connect and log how that went; after the fork, in a greenlet of its own."""
        try:
            self._bridge.within(WHOLE_ANSWER_S, self._store.ping)
        except Exception as error:  # noqa: BLE001 - the border: whatever the client raises ends here
            log.warning("Redis can't be used now", extra={"error": type(error).__name__})
        else:
            log.info("Redis shares the scores of pairs")
        self._started = True

    def get_many(self, keys: Sequence[bytes], budget: LookupBudget) -> dict[bytes, PairScore]:
        """Return the known scores, by key, as far as they come in time."""
        found: dict[bytes, PairScore] = {}
        for start in range(0, len(keys), KEYS_AT_ONCE):
            part = keys[start : start + KEYS_AT_ONCE]
            scores = self._look(part, budget)
            if scores is None:
                break
            found |= scores
        return found

    def put_many(self, scores: Mapping[bytes, PairScore]) -> None:
        """Write these scores, soon; the caller does not wait."""
        self._waiting |= dict(itertools.islice(scores.items(), MOST_WAITING - len(self._waiting)))
        if not self._writing:
            self._writing = True
            self._bridge.spawn(self._write)

    def _look(self, keys: Sequence[bytes], budget: LookupBudget) -> dict[bytes, PairScore] | None:
        """Look up once; return None when there is no answer in time."""
        began = self._clock()
        if not self._started or budget.left_s <= 0 or self._looking >= MOST_LOOKUPS or not self._reads.allows(began):
            return None
        waiter = self._bridge.make_waiter()
        answers: list[dict[bytes, PairScore] | Exception] = []

        def look() -> None:
            try:
                answers.append(self._bridge.within(WHOLE_ANSWER_S, lambda: self._store.get_many(keys)))
            except Exception as error:  # noqa: BLE001 - the border, as above
                answers.append(error)
            self._looking -= 1
            waiter.wake()

        # A greenlet of its own reads the answer to its end, however long that takes: a connection with half an answer
        # in it would give it to the next lookup.
        self._looking += 1
        self._bridge.spawn(look)
        if not waiter.wait(budget.left_s):
            waiter.wait(LAST_LOOK_S)
        budget.left_s -= self._clock() - began
        answer = answers[0] if answers else TimeoutError()
        if isinstance(answer, Exception):
            budget.left_s = 0.0
            self._failed(self._reads, answer)
            return None
        self._reads.succeeded()
        return answer

    def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popitem() for _ in range(min(ENTRIES_AT_ONCE, len(self._waiting)))]
                if self._started and self._writes.allows(self._clock()):  # else they are dropped
                    self._write_batch(batch)
        finally:
            self._writing = False

    def _write_batch(self, batch: Sequence[tuple[bytes, PairScore]]) -> None:
        try:
            self._bridge.within(WHOLE_ANSWER_S, lambda: self._store.set_many(batch))
        except Exception as error:  # noqa: BLE001 - the border, as above
            self._failed(self._writes, error)
        else:
            self._writes.succeeded()

    def _failed(self, breaker: Breaker, error: Exception) -> None:
        log.debug("Redis failed", extra={"error": type(error).__name__})
        breaker.failed(self._clock())


def _breaker(what: str) -> Breaker:
    return Breaker(lambda old, new: log.warning("Redis", extra={"what": what, "was": old, "state": new}))


class RedisStore:
    """Scores of pairs in a Redis, over connections that each process makes when it first needs them."""

    def __init__(self, url: str) -> None:
        self._pool = pool_of(url, wait_s=ANSWER_S, most=MOST_CONNECTIONS)

    def ping(self) -> None:
        """Connect, and wait for an answer."""
        with self._connection() as connection:
            connection.send_command("PING")
            _expect(connection.read_response(), b"PONG")

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, PairScore]:
        """Return the scores that are known, by one MGET.

        Raises:
            NonsenseError: Redis answered something else.
        """
        with self._connection() as connection:
            connection.send_command("MGET", *map(name_of, keys))
            values = connection.read_response()
            if type(values) is not list or len(values) != len(keys):
                raise NonsenseError("not one value for each name")
            scores = map(unpack, keys, values)
            return {key: score for key, score in zip(keys, scores, strict=True) if score is not None}

    def set_many(self, entries: Sequence[tuple[bytes, PairScore]]) -> None:
        """Write these, (key, score), by one pipeline."""
        with self._connection() as connection:
            connection.send_packed_command([b"".join(_set(name_of(key), pack(key, score)) for key, score in entries)])
            refusals = [error for _ in entries if (error := _refusal(connection))]
        if refusals:
            raise refusals[0]

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Lend a connection. After a failure its next answer may belong to another lookup, so it is closed."""
        connection: Any = self._pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)


def _set(name: bytes, value: bytes) -> bytes:
    """Return a SET as Redis reads it. The client's own pipeline takes six times as long for it, on the hub."""
    ttl_s = b"%d" % (TTL_S * random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER))  # noqa: S311 - no secret
    return _SET % (len(name), name, len(value), value, len(ttl_s), ttl_s)


def _refusal(connection: Any) -> redis.ResponseError | None:
    try:
        _expect(connection.read_response(), b"OK")
    except redis.ResponseError as error:  # such as: memory is full; the other answers are still to be read
        return error
    return None


def _expect(answer: object, expected: bytes) -> None:
    if answer != expected:
        raise NonsenseError(f"not {expected.decode()}")


def name_of(key: bytes) -> bytes:
    """Return the name under which a pair lies in Redis.

    Args:
        key: from `webapp.service.cache.keys`; it holds the artifact, so models and precisions never share a score.
    """
    return _NAMESPACE + key


def pack(key: bytes, score: PairScore) -> bytes:
    """Return the score of a pair as bytes."""
    packed = _SCORE.pack(VERSION, score.logit, score.truncated, score.tokens)
    return packed + _CHECK.pack(_check(key, packed))


def unpack(key: bytes, value: object) -> PairScore | None:
    """Return the score of a pair from what Redis has under its name; None for nothing.

    Raises:
        NonsenseError: it is something else.
    """
    if value is None:
        return None
    if type(value) is not bytes or len(value) != _SCORE.size + _CHECK.size:
        raise NonsenseError("a value is no score")
    packed = value[: _SCORE.size]
    if _CHECK.unpack_from(value, _SCORE.size) != (_check(key, packed),):
        raise NonsenseError("a value belongs to another name, or is damaged")
    version, logit, truncated, tokens = _SCORE.unpack(packed)
    if version != VERSION or not math.isfinite(logit):
        raise NonsenseError("a value is no score")
    return PairScore(logit, bool(truncated), tokens)


def _check(key: bytes, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(key))


class _Buffer(SocketBuffer):
    """A buffer that ends an answer that grows too long: while more of it comes, the hub has no turn.

    Not needed once redis-py bounds an answer itself.
    """

    def _read_from_socket(self, length: int | None = None, *arguments: Any, **options: Any) -> bool:
        if self._buffer.getbuffer().nbytes + (length or 0) > MOST_ANSWER_BYTES:
            raise InvalidResponse("an answer without end")
        return super()._read_from_socket(length, *arguments, **options)


class _Parser(_RESP2Parser):
    """A parser that makes each part of an answer when it has come.

    The faster one, of hiredis, makes as many places as are promised; to free a billion of them holds the interpreter's
    lock for seconds. Not needed once hiredis bounds them.
    """

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        self._buffer = _Buffer(self._sock, self.socket_read_size, connection.socket_timeout)  # type: ignore[arg-type]


def pool_of(url: str, *, wait_s: float, most: int = sys.maxsize) -> redis.ConnectionPool:
    """Return connections to a Redis; each is made when it is first used.

    Args:
        url: address of the Redis.
        wait_s: longest silence within an answer, and longest wait for a connection.
        most: connections at once.
    """
    return redis.ConnectionPool.from_url(
        url,
        socket_timeout=wait_s,
        socket_connect_timeout=wait_s,
        retry=Retry(NoBackoff(), 0),  # its own would make an outage longer
        protocol=2,  # one round trip less for each connection
        driver_info=None,  # and two more
        parser_class=_Parser,
        max_connections=most,
    )
