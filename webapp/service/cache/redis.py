"""Redis, as the second level of the pair cache wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from webapp.service.cache.memory import PairScore
from webapp.service.cache.wire import NonsenseError, name_of, pack, unpack
from webapp.service.redis_pool import pool_of

ANSWER_S = 0.25
"""Longest silence within an answer. No request waits that long; it frees what asked."""

WHOLE_ANSWER_S = 1.0
"""Longest time for one answer that comes in crumbs; see `webapp.servers.parts`."""

MOST_CONNECTIONS = 40


class RedisStore:
    """One process's connections; made after the fork, connected when first used."""

    def __init__(self, url: str) -> None:
        self._pool = pool_of(url, wait_s=ANSWER_S, most=MOST_CONNECTIONS)

    def ping(self) -> None:
        """Connect, and hear an answer."""
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

    def set_many(self, entries: Sequence[tuple[bytes, PairScore, int]]) -> None:
        """Keep these, (key, score, seconds to live), by one pipeline."""
        with self._connection() as connection:
            connection.send_packed_command(
                [b"".join(_set(name_of(key), pack(key, score), ttl_s) for key, score, ttl_s in entries)]
            )
            refusals = [error for _ in entries if (error := _refusal(connection))]
        if refusals:
            raise refusals[0]

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        """Lend a connection. After a failure its next answer may be anyone's, so it is closed."""
        connection: Any = self._pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)


def _set(name: bytes, value: bytes, ttl_s: int) -> bytes:
    """A command as Redis reads it. The client's own pipeline takes six times as long for it, on the hub."""
    return b"*5\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nEX\r\n$%d\r\n%d\r\n" % (
        len(name),
        name,
        len(value),
        value,
        len(str(ttl_s)),
        ttl_s,
    )


def _refusal(connection: Any) -> redis.ResponseError | None:
    try:
        _expect(connection.read_response(), b"OK")
    except redis.ResponseError as error:  # full, for one; the other answers are still to be read
        return error
    return None


def _expect(answer: object, expected: bytes) -> None:
    if answer != expected:
        raise NonsenseError(f"not {expected.decode()}")
