"""What a request takes from before its body is read until its reply is gone: a place, and memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from flask import Response, current_app, g, request

from webapp.api.dialects.base import SMALL_BYTES
from webapp.scheduling.admission import BODY_FACTOR, Arrival
from webapp.service.reranker import RerankService

PACKED_FACTOR = 8
"""What is packed is taken for so many times larger, until it is known."""

STEP_BYTES = 64 * 1024
"""A body of unknown length is read in such pieces."""


@contextmanager
def arrive(service: RerankService) -> Iterator[Arrival]:
    """Hold a place, and memory for the body, until the current request is answered.

    Raises:
        RequestEntityTooLarge: the body is larger than any may be.
        OverloadedError: there is no place, or no memory.
    """
    _ = request.stream  # looks at the length, and reads nothing
    with service.arrive(_expected_bytes()) as arrival:
        g.arrival = arrival
        yield arrival


def _expected_bytes() -> int:
    """Return how large the body is, unpacked; 0 where it is small, or comes in chunks and nobody knows."""
    length = request.content_length or 0
    if request.headers.get("Content-Encoding"):
        most: int = current_app.config["MAX_CONTENT_LENGTH"]
        length = min(length * PACKED_FACTOR, most)
    return length if length > SMALL_BYTES else 0


def read_body() -> bytes:
    """Read the body of the current request.

    Raises:
        OverloadedError: its length was unknown, and there is no memory for what came of it.
    """
    if request.content_length is not None:
        return request.get_data(cache=False)
    arrival: Arrival = g.arrival
    body = bytearray()
    while piece := request.stream.read(STEP_BYTES):
        body += piece
        if len(body) > SMALL_BYTES:
            arrival.needs(len(body) * BODY_FACTOR)
    return bytes(body)


def needs(memory_bytes: int) -> None:
    """Charge for what was read of the current request's body what that really takes.

    Raises:
        OverloadedError: it is more than was expected, and there is no room for it.
    """
    arrival: Arrival = g.arrival
    arrival.needs(memory_bytes)


def leave(response: Response, arrival: Arrival) -> None:
    """Charge for a reply until it was sent."""
    arrival.replies(len(response.get_data()))
    response.call_on_close(arrival.gone)
