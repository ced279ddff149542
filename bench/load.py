"""A small load generator: keep-alive connections, requests made ahead, raw sockets. Closed loop.

It shares the cores with what it measures, so a request costs it as little as Python can do: one send, one or two
receives, a search for the content length. Threads only wait.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TIMEOUT_S = 600


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed; NaN of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else math.nan


@dataclass(frozen=True)
class Outcome:
    """The result of a run of requests."""

    requests: int
    seconds: float
    latencies_ms: list[float]
    """Sorted."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def latency_ms(self, share: float) -> float:
        """Return the latency that this share of the requests did not exceed."""
        return percentile(self.latencies_ms, share)


class Connection:
    """One keep-alive connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Send one request; return status and body.

        Raises:
            ConnectionError: the server closed before it had answered.
        """
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive()
        head, _, body = received.partition(b"\r\n\r\n")
        lowered = head.lower()
        at = lowered.index(b"content-length:") + len(b"content-length:")
        length = int(lowered[at:].split(b"\r\n", 1)[0])
        while len(body) < length:
            body += self._receive()
        return int(head[9:12]), body

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        received = self._socket.recv(262_144)
        if not received:
            raise ConnectionError("the server closed the connection")
        return received


def post(body: bytes, path: str = "/rerank") -> bytes:
    """Return a whole HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


def closed_loop(
    port: int,
    bodies: Sequence[bytes],
    concurrency: int,
    *,
    path: str = "/rerank",
    until: Callable[[], bool] | None = None,
) -> Outcome:
    """Send every body once, `concurrency` at a time, each client one after the other.

    Args:
        port: on this machine.
        bodies: what to send; made into requests before the clock starts.
        concurrency: clients.
        path: of the endpoint.
        until: when given, the bodies are sent again and again until it says True.

    Raises:
        RuntimeError: a request failed, or its reply was no 200.
    """
    requests = [post(body, path) for body in bodies]
    waiting = list(reversed(requests))
    latencies: list[float] = []
    failures: list[str] = []
    lock = threading.Lock()

    def take() -> bytes | None:
        with lock:
            if until is not None:
                return None if until() else requests[len(latencies) % len(requests)]
            return waiting.pop() if waiting else None

    def client() -> None:
        try:
            with contextlib.closing(Connection(port)) as connection:
                while (request := take()) is not None:
                    began = time.perf_counter()
                    status, answer = connection.send(request)
                    latencies.append((time.perf_counter() - began) * 1000)
                    if status != 200:
                        failures.append(f"{status} {answer[:200]!r}")
        except OSError as error:
            failures.append(repr(error))

    clients = [threading.Thread(target=client) for _ in range(concurrency)]
    began = time.perf_counter()
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    seconds = time.perf_counter() - began
    if failures:
        raise RuntimeError(f"{len(failures)} requests failed, the first with {failures[0]}")
    return Outcome(len(latencies), seconds, sorted(latencies))
