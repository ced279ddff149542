"""A service of our wire format that fails a share of the calls, in all the ways in which services fail.

`python tests/services/faulty_server.py --faults 0.1` says where it listens and runs until it is ended. Scores are made
up, but a text's is always the same.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import random
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("503", "503 with Retry-After", "502", "504", "429", "hangs up", "cuts the reply")


def score_of(text: str) -> float:
    """0..1, by the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).digest()) / 2**32


class FaultyServer(ThreadingHTTPServer):
    """Answers, or fails as told."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, share: float = 0.0, *, seed: int = 1) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.share = share
        self.next: collections.deque[str] = collections.deque()
        """What happens to the next calls, before chance decides; "" is an answer."""
        self.seen: list[dict[str, str]] = []
        """Headers of all calls, by lower-case names."""
        self.documents: list[int] = []
        """How many each call that was answered held."""
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def calls(self) -> int:
        return len(self.seen)

    def fate(self, headers: dict[str, str]) -> str:
        with self._lock:
            self.seen.append(headers)
            if self.next:
                return self.next.popleft()
            return self._random.choice(FAULTS) if self._random.random() < self.share else ""

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is nobody's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fate = self.server.fate({name.lower(): value for name, value in self.headers.items()})
        if fate == "hangs up":
            self._hang_up()
        elif fate == "says nothing":
            self.rfile.read(1)  # until the client hangs up
            self.close_connection = True
        elif fate == "cuts the reply":
            self._send(200, json.dumps(reply_to(asked)).encode(), cut=True)
        elif fate:
            status, _, later = fate.partition(" with Retry-After")
            seconds = later.strip() or "1"
            headers = {"Retry-After": seconds} if "Retry-After" in fate else {}
            error = {"error": {"code": "faulty", "message": "by chance", "retryable": True}, "request_id": ""}
            self._send(int(status), json.dumps(error).encode(), headers)
        else:
            questions = asked if isinstance(asked, list) else [asked]
            self.server.documents.append(sum(len(each["documents"]) for each in questions))
            told = [reply_to(each) for each in questions]
            self._send(200, json.dumps(told if asked is questions else told[0]).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def reply_to(asked: dict) -> dict:
    if not asked["query"].strip():
        return {"error": {"code": "invalid_request", "message": "query: must not be blank", "retryable": False}}
    scores = [score_of(each["content"]) for each in asked["documents"]]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: asked["top_k"] or None]
    results = [{"index": index, "score": scores[index]} for index in best]
    return {"query": asked["query"], "results": results, "latency_ms": 1.0, "model": "faulty"}


@contextlib.contextmanager
def serving(share: float = 0.0, *, seed: int = 1) -> Iterator[FaultyServer]:
    """In threads of this process."""
    with FaultyServer(share, seed=seed) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=float, default=0.1, help="share of calls that fail, 0..1")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with FaultyServer(chosen.faults, seed=chosen.seed) as running:
        print(running.url, flush=True)  # noqa: T201 - so that its parent knows
        with contextlib.suppress(KeyboardInterrupt):
            running.serve_forever()
