"""Connections to Redis, as all who ask it here want them. Imported only where a Redis is configured."""

from __future__ import annotations

import sys
from typing import Any

import redis
from redis._parsers import _RESP2Parser
from redis._parsers.socket import SocketBuffer
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse
from redis.retry import Retry

MOST_ANSWER_BYTES = 64 * 1024
"""Three times the longest answer to what we ask."""


class _Buffer(SocketBuffer):
    """Ends an answer that grows too long: while more of it comes, the hub has no turn."""

    def _read_from_socket(self, length: int | None = None, *arguments: Any, **options: Any) -> bool:
        if self._buffer.getbuffer().nbytes + (length or 0) > MOST_ANSWER_BYTES:
            raise InvalidResponse("an answer without end")
        return super()._read_from_socket(length, *arguments, **options)


class _Parser(_RESP2Parser):
    """Makes each part of an answer when it has come. The faster one, of hiredis, makes as many places as are promised.

    A billion of them hold the interpreter's lock for seconds, when they are freed.
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
