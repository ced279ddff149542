"""What the client is worth where calls fail: requests that succeed, and calls that they cost, with and without it.

Usage: python bench/client.py [--requests 300] [--concurrency 50]
The faulty server of the tests fails a share of the calls: 502, 503 (half of them with Retry-After: 1), 504, 429,
connections that end before the reply or in the middle of it. Prints a table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import harness
import httpx
from reranking_client import AsyncRerankClient, Budget, CallFailedError

SHARES = (0.1, 0.5, 1.0)

DOCUMENTS = [f"document {number}" for number in range(5)]

TIMEOUT_S = 30.0

Ask = Callable[[], Awaitable[bool]]
"""One request; whether it succeeded."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    succeeded: float
    calls: float
    """A request."""
    p50_s: float
    p99_s: float


class Counted(httpx.AsyncHTTPTransport):
    """Counts what is sent."""

    calls = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        return await super().handle_async_request(request)


@contextlib.asynccontextmanager
async def bare(url: str, counted: Counted) -> AsyncIterator[Ask]:
    """Only httpx."""
    body = {"query": "q", "documents": [{"content": each} for each in DOCUMENTS], "top_k": 0}
    async with httpx.AsyncClient(transport=counted, timeout=TIMEOUT_S) as client:

        async def ask() -> bool:
            try:
                return (await client.post(f"{url}/rerank", json=body)).status_code == 200
            except httpx.HTTPError:
                return False

        yield ask


def ours(**how: object) -> Callable[[str, Counted], contextlib.AbstractAsyncContextManager[Ask]]:
    """Our client, one for all requests, as a program has it."""

    @contextlib.asynccontextmanager
    async def made(url: str, counted: Counted) -> AsyncIterator[Ask]:
        made_so = {name: make() for name, make in how.items()}  # a budget of its own for each run
        async with AsyncRerankClient(url, transport=counted, timeout_s=TIMEOUT_S, **made_so) as client:

            async def ask() -> bool:
                try:
                    await client.rerank("q", DOCUMENTS)
                except CallFailedError:
                    return False
                return True

            yield ask

    return made


KINDS = {
    "httpx alone": bare,
    "client": ours(),
    "client, no budget": ours(budget=lambda: Budget(burst=math.inf)),
}


async def measure(kind: str, url: str, requests: int, concurrency: int) -> Outcome:
    """Run a closed loop of requests."""
    counted, latencies, succeeded = Counted(), [], 0
    left = iter(range(requests))
    async with KINDS[kind](url, counted) as ask:

        async def work() -> None:
            nonlocal succeeded
            for _ in left:
                began = time.perf_counter()
                if await ask():
                    succeeded += 1
                latencies.append(time.perf_counter() - began)

        await asyncio.gather(*(work() for _ in range(concurrency)))
    latencies.sort()
    return Outcome(
        succeeded / requests, counted.calls / requests, latencies[requests // 2], latencies[int(requests * 0.99)]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=50)
    chosen = parser.parse_args()
    print(harness.machine())
    print(f"{chosen.requests} requests, concurrency {chosen.concurrency}\n")
    print("| calls that fail | | requests that succeed | calls a request | p50 s | p99 s |\n|---|---|---|---|---|---|")
    server = harness.ROOT / "tests" / "services" / "faulty_server.py"
    for share in SHARES:
        for kind in KINDS:
            command = [sys.executable, str(server), "--faults", str(share)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
                assert running.stdout
                url = running.stdout.readline().strip()
                try:
                    got = asyncio.run(measure(kind, url, chosen.requests, chosen.concurrency))
                finally:
                    running.terminate()
            print(
                f"| {share:.0%} | {kind} | {got.succeeded:.1%} | {got.calls:.2f} | {got.p50_s:.3f} | {got.p99_s:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
