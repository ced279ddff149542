"""Hostile clients: they leave, stop half-way, send too much or rubbish, or only hold what they got."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from nemesis.fault import Do, Fault, Trial
from nemesis.known import KEY
from nemesis.subject import OTHER_ADDRESS

SMALL = json.dumps({"query": "q", "documents": [f"document {number}" for number in range(20)]}).encode()

NEARLY_TOO_LARGE = 33_000_000
"""Bytes; just below the default limit of a body."""

READ_S = 30.0
"""Longest wait of a hostile client for what it reads. It is not judged."""

RUBBISH = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"\0" * 5000,
    b"POST /rerank HTTP/9.9\r\n\r\n",
    b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
)

RESET = b"\1\0\0\0\0\0\0\0"
"""Value of SO_LINGER with which a close is a reset."""


def post(body: bytes, path: str = "/rerank") -> bytes:
    """Return a whole request."""
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def connected(trial: Trial) -> socket.socket | None:
    """Return a connection from another address than the well-behaved clients'; none where it is refused."""
    with contextlib.suppress(OSError):
        return socket.create_connection(("127.0.0.1", trial.subject.port), READ_S, (OTHER_ADDRESS, 0))
    return None


def hang_ups(trial: Trial) -> Iterator[None]:
    """Send a part, or all, and leave, politely or not."""
    whole = post(SMALL)
    for number in range(trial.scaled(400)):
        if connection := connected(trial):
            with connection, contextlib.suppress(OSError):
                if number % 2:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.sendall(whole[: trial.rng.randint(1, len(whole))] if number % 3 else whole)
    yield


def held(count: int, sent: bytes) -> Do:
    """Connect so often, send, and hold the connections without reading until all others have met it."""

    def do(trial: Trial) -> Iterator[None]:
        with contextlib.ExitStack() as holding:
            for _ in range(trial.scaled(count)):
                if connection := connected(trial):
                    holding.enter_context(connection)
                    with contextlib.suppress(OSError):
                        connection.sendall(sent)
            trial.goes_on()
            yield

    return do


def slow_bodies(trial: Trial) -> Iterator[None]:
    """Announce a body, and send it a byte at a time."""
    whole = post(SMALL)
    begun = whole.index(b"\r\n\r\n") + 4
    with contextlib.ExitStack() as holding:
        connections = [holding.enter_context(each) for _ in range(trial.scaled(200)) if (each := connected(trial))]
        for position in range(begun, begun + 20):
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(whole[:position] if position == begun else whole[position - 1 : position])
        trial.goes_on()
        yield


def sent(make: Callable[[], Iterable[bytes]]) -> Do:
    """Send whole requests side by side, and read what comes back."""

    def do(trial: Trial) -> Iterator[None]:
        requests = list(make())
        with ThreadPoolExecutor(len(requests)) as pool:
            list(pool.map(lambda request: _exchange(trial, request), requests))
        yield

    return do


def _exchange(trial: Trial, request: bytes) -> None:
    if connection := connected(trial):
        with connection, contextlib.suppress(OSError):
            connection.sendall(request)
            connection.recv(65536)


def oversized() -> Iterator[bytes]:
    """Announce a hundred megabytes."""
    for _ in range(20):
        yield b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 104857600\r\n\r\n" + b"x" * 65536


def values(surrogate: bytes) -> Iterator[bytes]:
    """Fill a body of nearly the largest size with empty lists."""
    head = b'{"query": "q", "documents": [{"content": "a", "metadata": {"a": [' + surrogate
    count = (NEARLY_TOO_LARGE - len(head)) // 3
    yield post(head + b"[]," * count + b"[]]}}]}")


def huge_batch() -> Iterator[bytes]:
    """Ask ten thousand tiny requests in one call."""
    one = {"query": "q", "documents": [{"content": "a"}]}
    yield post(json.dumps([one] * 10_000).encode(), "/rerank/batch")


def large_bodies() -> Iterator[bytes]:
    """Send bodies of 30 MB side by side."""
    body = json.dumps({"query": "q", "documents": ["bees " * 6_000_000]}).encode()
    for _ in range(12):
        yield post(body)


def rubbish(trial: Trial) -> Iterator[None]:
    """Send what is no HTTP, known tricks and random bytes."""
    for number in range(trial.scaled(100)):
        random_bytes = trial.rng.randbytes(trial.rng.randint(1, 3000))
        if connection := connected(trial):
            with connection, contextlib.suppress(OSError):
                connection.sendall(RUBBISH[number % len(RUBBISH)] if number % 2 else random_bytes)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)
    yield


def deploy_beside(*options: str) -> Do:
    """Deploy while callers hang up and send bodies that are too large; that is no fault of the new color."""

    def do(trial: Trial) -> Iterator[None]:
        enough = threading.Event()
        large = next(oversized())

        def go_on() -> None:
            while not enough.is_set():
                _exchange(trial, large)
                if connection := connected(trial):
                    with connection, contextlib.suppress(OSError):
                        connection.sendall(post(SMALL))

        hostile = [threading.Thread(target=go_on, daemon=True) for _ in range(4)]
        for each in hostile:
            each.start()
        try:
            trial.subject.deploy(*options)
            yield
        finally:
            enough.set()
            for each in hostile:
                each.join()

    return do


_WEBSOCKET = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_LARGE_REPLY = post(json.dumps({"query": "q", "documents": [{"content": "bees " * 2000}] * 100}).encode())

FAULTS = (
    Fault("hostile", "callers that hang up", hang_ups),
    Fault(
        "hostile",
        "half-sent heads",
        held(4000, b"POST /rerank HTTP/1.1\r\nHost: x\r\n"),
        before="8,500 shut out every other address for 15 s",
    ),
    Fault(
        "hostile",
        "WebSockets that never greet",
        held(4000, _WEBSOCKET),
        before="4,094 shut out every other address",
    ),
    Fault(
        "hostile",
        "readers of event streams",
        held(2100, f"GET /progress/nobody HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n\r\n".encode()),
        before="2,100 of them: `/dashboard` and `/progress` were 503 for all",
    ),
    Fault("hostile", "bodies that come a byte at a time", slow_bodies),
    Fault("hostile", "readers that never read a large reply", held(300, _LARGE_REPLY)),
    Fault("hostile", "bodies of 100 MB", sent(oversized)),
    Fault(
        "hostile",
        "33 MB of `[],` with a lone surrogate",
        sent(lambda: values(rb'"\ud800",')),
        before="`/health` waited 24 s, 1.7 GB",
    ),
    Fault("hostile", "33 MB of `[],`", sent(lambda: values(b"")), before="`/health` waited 4.9 s, 890 MB"),
    Fault("hostile", "10,000 requests in one batch", sent(huge_batch), before="51 s"),
    Fault("hostile", "12 bodies of 30 MB", sent(large_bodies), before="60 of them: 81 MB to 3.4 GB, 525 MB stayed"),
    Fault("hostile", "rubbish bytes", rubbish),
    Fault(
        "hostile",
        "a deploy beside hang-ups and oversized bodies",
        deploy_beside("--watch", "1"),
        before="4 of 4 refused",
    ),
    Fault(
        "hostile",
        "a canary beside hang-ups and oversized bodies",
        deploy_beside("--canary", "50", "--for", "2", "--watch", "1"),
        before="4 of 4 refused",
        cheap=False,
    ),
)
