"""Redis, as the second level of the pair cache wants it. The only file that knows its client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ANSWER_S = 0.25
"""Longest time for one answer. No request waits that long; it frees what asked."""

MOST_CONNECTIONS = 40


class RedisStore:
    """One process's connections; made after the fork, connected when first used."""

    def __init__(self, url: str) -> None:
        self._pool = redis.ConnectionPool.from_url(
            url,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),  # its own would make an outage longer
            protocol=2,  # one round trip less for each connection
            lib_name=None,  # and two more
            lib_version=None,
            max_connections=MOST_CONNECTIONS,
        )
        self._client = redis.Redis(connection_pool=self._pool)

    def ping(self) -> None:
        """Connect, and hear an answer."""
        self._client.ping()

    def get_many(self, names: Sequence[bytes]) -> list[bytes | None]:
        """One MGET."""
        return cast("list[bytes | None]", self._client.mget(names))

    def set_many(self, entries: Sequence[tuple[bytes, bytes, int]]) -> None:
        """One pipeline of (name, value, seconds to live)."""
        connection: Any = self._pool.get_connection()
        try:
            connection.send_packed_command([b"".join(_set(*entry) for entry in entries)])
            refusals = [error for _ in entries if (error := _refusal(connection))]
        except BaseException:
            connection.disconnect()  # what it has not read yet is nobody's answer
            raise
        finally:
            self._pool.release(connection)
        if refusals:
            raise refusals[0]


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
        connection.read_response()
    except redis.ResponseError as error:  # full, for one; the other answers are still to be read
        return error
    return None
