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
from pathlib import Path

import harness
import load

DOCUMENTS, WORDS = 50, 60


@dataclass
class Tally:
    """What the open loop met."""

    accepted_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    late: int = 0
    other: dict[str, int] = field(default_factory=dict)


class Clients:
    """Connections are kept and used again; a new one is opened when all are waiting for an answer."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._port = port
        self._tally = tally
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """One request, its reply's status and head."""
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

    async def rerank(self, request: bytes, patience_s: float) -> None:
        began = time.perf_counter()
        tally = self._tally
        try:
            async with asyncio.timeout(patience_s):
                status, head = await self.exchange(request)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            name = type(error).__name__
            tally.other[name] = tally.other.get(name, 0) + 1
            return
        took = time.perf_counter() - began
        if status == 200:
            tally.accepted_s.append(took)
        elif status == 503:
            tally.refused_s.append(took)
            tally.without_retry_after += b"retry-after" not in head.lower()
        elif status == 504:
            tally.late += 1
        else:
            tally.other[str(status)] = tally.other.get(str(status), 0) + 1

    async def health(self) -> None:
        began = time.perf_counter()
        await self.exchange(b"GET /health HTTP/1.1\r\nHost: bench\r\n\r\n")
        self._tally.health_s.append(time.perf_counter() - began)


async def open_loop(port: int, requests: list[bytes], rate: float, seconds: float, patience_s: float) -> Tally:
    """Send `rate` requests a second."""
    tally = Tally()
    clients = Clients(port, tally)
    began = time.perf_counter()
    tasks = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(clients.rerank(requests[number % len(requests)], patience_s)))
        if number % max(1, int(rate / 4)) == 0:
            tasks.append(asyncio.create_task(clients.health()))
    await asyncio.gather(*tasks)
    return tally


def share(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else float("nan")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1024**2


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
        before_mb = rss_mb(worker)
        requests = [
            load.post(body).replace(b"Host:", f"X-Request-Timeout: {chosen.timeout_s}\r\nHost:".encode(), 1)
            for body in bodies(200, 3)
        ]
        rate = alone.rate * chosen.times
        began = time.perf_counter()
        tally = asyncio.run(open_loop(service.port, requests, rate, chosen.seconds, 2 * chosen.timeout_s))
        seconds = time.perf_counter() - began
        report(tally, alone.rate, rate, seconds, chosen.timeout_s, before_mb, rss_mb(worker))


def report(tally: Tally, alone: float, rate: float, seconds: float, timeout_s: float, *rss: float) -> None:
    accepted_s = share(tally.accepted_s, 0.99)
    goodput = len(tally.accepted_s) / seconds
    print(harness.machine())
    print(f"{DOCUMENTS} documents of about {WORDS} words; closed loop {alone:.1f} requests/s, offered {rate:.1f}/s")
    rows = [
        ("goodput / closed loop", f"{goodput / alone:.0%}", goodput >= 0.95 * alone),
        ("accepted p99 <= deadline", f"{accepted_s:.2f} s", accepted_s <= timeout_s),
        ("refusals p99 < 50 ms", f"{share(tally.refused_s, 0.99) * 1000:.1f} ms", share(tally.refused_s, 0.99) < 0.05),
        ("health p99 < 50 ms", f"{share(tally.health_s, 0.99) * 1000:.1f} ms", share(tally.health_s, 0.99) < 0.05),
        ("refusals without Retry-After", str(tally.without_retry_after), not tally.without_retry_after),
        ("worker's memory", f"{rss[0]:.0f} -> {rss[1]:.0f} MB", rss[1] < rss[0] * 1.1),
        ("anything else", str(tally.other or "none"), not tally.other),
    ]
    for what, figure, held in rows:
        print(f"{what:32} {figure:24} {'held' if held else 'NOT HELD'}")
    accepted, refused = len(tally.accepted_s), len(tally.refused_s)
    print(
        f"{accepted} accepted, {refused} refused (median {statistics.median(tally.refused_s or [0]) * 1000:.1f} ms),"
        f" {tally.late} accepted and late (504)"
    )


if __name__ == "__main__":
    main()
