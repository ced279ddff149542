"""The real thing that the simulation is compared with: stacks of one core each behind `reranking balance`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
import overload


@contextlib.contextmanager
def running(model: Path | None = None, *, replicas: int = 2, **settings: object) -> Iterator[tuple[int, list[int]]]:
    """Stacks with one engine thread, each on a core of its own, behind a balancer.

    Yields the balancer's port, and the pids of all, the balancer's last.
    """
    models = harness.STATE_DIR / "state" / "models"
    with contextlib.ExitStack() as stack:
        stacks = []
        for core in range(replicas):
            state_dir = harness.STATE_DIR / f"replica-{core}"
            state_dir.mkdir(parents=True, exist_ok=True)
            if not (state_dir / "models").exists():
                (state_dir / "models").symlink_to(models)
            started = harness.service(
                model, core=core, state_dir=state_dir, engine_threads=1, cache_mb=0, balancers="127.0.0.1", **settings
            )
            stacks.append(stack.enter_context(started))
        started = harness.service(
            command="balance",
            state_dir=harness.STATE_DIR / "balancer",
            stacks=",".join(f"http://127.0.0.1:{each.port}" for each in stacks),
        )
        balancer = stack.enter_context(started)
        yield balancer.port, [each.process.pid for each in (*stacks, balancer)]


def replay(port: int, requests: Sequence[bytes], at_s: Sequence[float]) -> list[float]:
    """Send each request at its instant, whatever happens; seconds from then until its reply was there.

    Raises:
        RuntimeError: one was not answered with 200.
    """
    return asyncio.run(_replay(port, requests, at_s))


async def _replay(port: int, requests: Sequence[bytes], at_s: Sequence[float]) -> list[float]:
    clients = overload.Clients(port, overload.Counts())
    took = [0.0] * len(requests)
    began = time.perf_counter() + 0.1

    async def one(number: int) -> None:
        status, _ = await clients.exchange(requests[number])
        if status != 200:
            raise RuntimeError(f"a request was answered with {status}")
        took[number] = time.perf_counter() - began - at_s[number]

    async with asyncio.TaskGroup() as group:
        for number, at in enumerate(at_s):
            await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
            group.create_task(one(number))
    return took
