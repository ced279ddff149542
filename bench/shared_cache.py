"""What Redis adds to a request: a good one, a full one, one that is stopped, one that is dead, one that is back.

Requests go to a service without and to one with RERANK_REDIS_URL in turn, so that both meet the same moments of the
machine. The stub engine scores them: what is left is what the service itself takes. Every pair is new, so each request
looks in vain and writes: the most that Redis can cost.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import harness
from load import Connection, percentile, post

REQUESTS = 600
DOCUMENTS = 20

_numbers = itertools.count()


def main() -> None:
    print(f"{harness.machine()}\n\n{REQUESTS} requests of {DOCUMENTS} new documents to each, one after the other\n")
    print("| Redis | off: p50 ms | p99 ms | on: p50 ms | p99 ms | longest ms | added p50 | added p99 | failed |")
    print("|---|---|---|---|---|---|---|---|---|")
    port = harness.free_port()
    with tempfile.TemporaryDirectory() as folder:
        redis = start_redis(port)
        try:
            with (
                harness.service(engine="stub", state_dir=Path(folder) / "off") as off,
                harness.service(
                    engine="stub", state_dir=Path(folder) / "on", redis_url=f"redis://127.0.0.1:{port}"
                ) as on,
            ):
                ports = off.port, on.port
                measure(ports, 200)  # warm
                row("works", ports)
                row("works, 1,000 documents", ports, count=60, documents=1000)
                command(port, "config", "set", "maxmemory", "1")
                row("is full", ports)
                command(port, "config", "set", "maxmemory", "0")
                redis.send_signal(signal.SIGSTOP)
                row("is stopped", ports)
                redis.send_signal(signal.SIGCONT)
                redis.kill()
                redis.wait()
                row("is dead", ports)
                redis = start_redis(port)
                time.sleep(31)  # the longest pause of the breaker
                row("is back", ports)
        finally:
            redis.kill()
            redis.wait()


def start_redis(port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    while subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True, check=False).stdout != b"PONG\n":
        time.sleep(0.05)
    return process


def command(port: int, *words: str) -> None:
    subprocess.run(["redis-cli", "-p", str(port), *words], stdout=subprocess.DEVNULL, check=True)


def measure(ports: tuple[int, int], count: int, documents: int = DOCUMENTS) -> tuple[list[float], list[float], int]:
    """Return latencies in ms without and with Redis, and how many of the latter failed."""
    took: tuple[list[float], list[float]] = [], []
    failed = 0
    connections = [Connection(port) for port in ports]  # nginx closes one after a thousand requests
    for _ in range(count):
        request = post(harness.body("how do bees find home", [f"document {next(_numbers)}" for _ in range(documents)]))
        for connection, kept in zip(connections, took, strict=True):
            began = time.perf_counter()
            status, _ = connection.send(request)
            kept.append((time.perf_counter() - began) * 1000)
            failed += status != 200
    return *took, failed


def row(name: str, ports: tuple[int, int], count: int = REQUESTS, documents: int = DOCUMENTS) -> None:
    off, on, failed = measure(ports, count, documents)

    at = percentile
    added = [at(on, share) - at(off, share) for share in (0.5, 0.99)]
    print(
        f"| {name} | {at(off, 0.5):.2f} | {at(off, 0.99):.2f} | {at(on, 0.5):.2f} | {at(on, 0.99):.2f} | {max(on):.1f}"
        f" | {added[0]:+.2f} | {added[1]:+.2f} | {failed} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
