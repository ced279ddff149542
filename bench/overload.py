"""Five times the load that the service can carry, as an open loop: requests come at a constant rate, whatever happens.

Usage: python bench/overload.py [--seconds 60] [--times 5] [--timeout-s 5]
First a closed loop measures what the service can carry; then the same requests come `times` as fast. Each client hangs
up after twice its timeout. Prints a table; says "held" or "NOT HELD" of what issue 6 asks for.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from dataclasses import dataclass, field

import harness
import load

DOCUMENTS, WORDS = 50, 60


@dataclass
class Counts:
    """Latencies and outcomes of the open loop."""

    accepted_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    late: int = 0
    other: dict[str, int] = field(default_factory=dict)


class Clients:
    """Connections are kept and used again; a new one is opened when all are waiting for an answer."""

    def __init__(self, port: int, counts: Counts) -> None:
        self._port = port
        self._counts = counts
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send one request; return its reply's status and head."""
        reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        except BaseException:
            writer.close()
            raise
        self._free.append((reader, writer))
        return int(head[9:12]), head

    async def rerank(self, request: bytes, hang_up_after_s: float) -> None:
        began = time.perf_counter()
        counts = self._counts
        try:
            async with asyncio.timeout(hang_up_after_s):
                status, head = await self.exchange(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            name = type(error).__name__
            counts.other[name] = counts.other.get(name, 0) + 1
            return
        took = time.perf_counter() - began
        if status == 200:
            counts.accepted_s.append(took)
        elif status == 503:
            counts.refused_s.append(took)
            counts.without_retry_after += b"retry-after" not in head.lower()
        elif status == 504:
            counts.late += 1
        else:
            counts.other[str(status)] = counts.other.get(str(status), 0) + 1

    async def health(self) -> None:
        began = time.perf_counter()
        await self.exchange(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n")
        self._counts.health_s.append(time.perf_counter() - began)


async def open_loop(port: int, requests: list[bytes], rate: float, seconds: float, hang_up_after_s: float) -> Counts:
    """Send `rate` requests a second."""
    counts = Counts()
    clients = Clients(port, counts)
    began = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(clients.rerank(requests[number % len(requests)], hang_up_after_s)))
        if number % max(1, int(rate / 4)) == 0:
            tasks.append(asyncio.create_task(clients.health()))
    await asyncio.gather(*tasks)
    return counts


def bodies(count: int, seed: int) -> list[bytes]:
    texts = harness.texts(400, mean_words=WORDS, seed=seed)
    rng = random.Random(seed)
    return [
        harness.body(f"query {seed} {n}", [{"content": text} for text in rng.sample(texts, DOCUMENTS)])
        for n in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--times", type=float, default=5)
    parser.add_argument("--timeout-s", type=float, default=5)
    chosen = parser.parse_args()
    with harness.service(harness.minilm_cross_encoder(), cache_mb=0) as service:
        load.closed_loop(service.port, bodies(10, 1), 4)  # warm
        ends = time.perf_counter() + min(15.0, chosen.seconds)
        alone = load.closed_loop(service.port, bodies(50, 2), 16, until=lambda: time.perf_counter() > ends)
        _, (worker,) = service.pids()
        before_mb = harness.rss_mb(worker)
        requests = [
            load.post(body).replace(b"Host:", f"X-Request-Timeout: {chosen.timeout_s}\r\nHost:".encode(), 1)
            for body in bodies(200, 3)
        ]
        rate = alone.rate * chosen.times
        began = time.perf_counter()
        counts = asyncio.run(open_loop(service.port, requests, rate, chosen.seconds, 2 * chosen.timeout_s))
        seconds = time.perf_counter() - began
        report(counts, alone.rate, rate, seconds, chosen.timeout_s, before_mb, harness.rss_mb(worker))


def report(counts: Counts, alone: float, rate: float, seconds: float, timeout_s: float, *rss: float) -> None:
    accepted_s = load.percentile(counts.accepted_s, 0.99)
    refused_ms, health_ms = (1000 * load.percentile(each, 0.99) for each in (counts.refused_s, counts.health_s))
    goodput = len(counts.accepted_s) / seconds
    print(harness.machine())
    print(f"{DOCUMENTS} documents of about {WORDS} words; closed loop {alone:.1f} requests/s, offered {rate:.1f}/s")
    rows = [
        ("goodput / closed loop", f"{goodput / alone:.0%}", goodput >= 0.95 * alone),
        ("accepted p99 <= deadline", f"{accepted_s:.2f} s", accepted_s <= timeout_s),
        ("refusals p99 < 50 ms", f"{refused_ms:.1f} ms", refused_ms < 50),
        ("health p99 < 50 ms", f"{health_ms:.1f} ms", health_ms < 50),
        ("refusals without Retry-After", str(counts.without_retry_after), not counts.without_retry_after),
        ("worker's memory", f"{rss[0]:.0f} -> {rss[1]:.0f} MB", rss[1] < rss[0] * 1.1),
        ("anything else", str(counts.other or "none"), not counts.other),
    ]
    for what, figure, held in rows:
        print(f"{what:32} {figure:24} {'held' if held else 'NOT HELD'}")
    accepted, refused = len(counts.accepted_s), len(counts.refused_s)
    print(
        f"{accepted} accepted, {refused} refused (median {statistics.median(counts.refused_s or [0]) * 1000:.1f} ms),"
        f" {counts.late} accepted and late (504)"
    )


if __name__ == "__main__":
    main()
