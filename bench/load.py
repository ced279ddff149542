"""A small load generator: keep-alive connections, bodies made ahead, threads that only wait. Closed loop."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a run of requests gave."""

    requests: int
    seconds: float
    latencies_ms: list[float]
    """Sorted."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds

    def latency_ms(self, share: float) -> float:
        """Latency that this share of the requests did not exceed."""
        return self.latencies_ms[min(len(self.latencies_ms) - 1, int(len(self.latencies_ms) * share))]


def closed_loop(port: int, bodies: Sequence[bytes], concurrency: int, *, path: str = "/rerank") -> Outcome:
    """Send every body once, `concurrency` at a time, each client one after the other.

    Raises:
        RuntimeError: a reply was no 200.
    """
    waiting = list(reversed(bodies))
    latencies: list[float] = []
    failures: list[str] = []
    lock = threading.Lock()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        while True:
            with lock:
                if not waiting:
                    break
                body = waiting.pop()
            began = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            answer = reply.read()
            took = (time.perf_counter() - began) * 1000
            with lock:
                latencies.append(took)
                if reply.status != 200:
                    failures.append(f"{reply.status} {answer[:200]!r}")
        connection.close()

    clients = [threading.Thread(target=client) for _ in range(concurrency)]
    began = time.perf_counter()
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    seconds = time.perf_counter() - began
    if failures:
        raise RuntimeError(f"{len(failures)} requests failed, the first with {failures[0]}")
    return Outcome(len(bodies), seconds, sorted(latencies))
