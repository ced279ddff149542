"""Mixed load for half an hour: does memory grow, does anything fail, does everything come back to rest?

Usage: python bench/soak.py [--minutes 30] [--most-mb-a-minute 1] [--attach PORT PID]
Small, large and cached requests, clients that hang up, bad requests and a dashboard that watches, all at once. The
first quarter warms up; then the memory of each worker is sampled, and a line laid through it. Ends with 1 when
something did not hold. --attach takes a running `reranking serve`, by its port and process id, instead of a new one.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import harness
import load
import numpy as np
import socketio

SAMPLES = 200
"""Samples of each worker's memory."""

REST_S = 20.0
"""Longest time after the load until all is at rest."""

NGINX_KEEPS = 16 * harness.cores()
"""Connections to a worker that nginx keeps open in advance."""

BAD = (
    (b"{", 400),
    (b'{"query": 1, "documents": [{"content": "a"}]}', 400),
    (b'{"query": "q", "documents": []}', 400),
    (json.dumps({"query": "q", "documents": [{"content": "a"}] * 10_001}).encode(), 400),
)
"""Bodies, and what they get."""


class Soak:
    """Clients of every kind, and what they met."""

    def __init__(self, port: int) -> None:
        self.met: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self._port = port
        self._stop = threading.Event()
        kinds = [self._small, self._small, self._large, self._cached, self._hang_up, self._bad]
        self._clients = [threading.Thread(target=self._run, args=each) for each in enumerate(kinds)]
        self._browser = socketio.Client()
        self._browser.on("delta", lambda _: self.met.update(["watched"]))

    def __enter__(self) -> Self:
        self._browser.connect(f"http://127.0.0.1:{self._port}")
        self._browser.emit("watch")
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self._clients:
            client.join()
        self._browser.disconnect()

    def _run(self, number: int, kind: Callable[[load.Connection, bytes, random.Random], None]) -> None:
        rng = random.Random(number)
        texts = harness.texts(1000, mean_words=40, seed=number)
        for count in itertools.count():
            if self._stop.is_set():
                return
            size = 500 if kind == self._large else 4
            body = harness.body(f"{number} asks {count}", [f"{count} {text}" for text in rng.sample(texts, size)])
            try:
                with contextlib.closing(load.Connection(self._port)) as connection:
                    kind(connection, body, rng)
            except OSError as error:
                self.wrong[f"{kind.__name__} {type(error).__name__}"] += 1

    def _expect(self, connection: load.Connection, body: bytes, status: int, kind: str) -> None:
        got, _ = connection.send(load.post(body))
        if got == status:
            self.met[kind] += 1
        else:
            self.wrong[f"{kind} {got}"] += 1

    def _small(self, connection: load.Connection, body: bytes, _rng: random.Random) -> None:
        self._expect(connection, body, 200, "small")

    def _large(self, connection: load.Connection, body: bytes, _rng: random.Random) -> None:
        self._expect(connection, body, 200, "large")

    def _cached(self, connection: load.Connection, _body: bytes, _rng: random.Random) -> None:
        for _ in range(10):
            self._expect(connection, harness.body("the same again", ["bees", "milk"]), 200, "cached")
        time.sleep(0.05)

    def _hang_up(self, _connection: load.Connection, body: bytes, rng: random.Random) -> None:
        request = load.post(body)
        with socket.create_connection(("127.0.0.1", self._port)) as alone:
            alone.sendall(request[: rng.choice([10, len(request) // 2, len(request)])])
            time.sleep(rng.uniform(0, 0.05))
        self.met["hung up"] += 1

    def _bad(self, connection: load.Connection, _body: bytes, rng: random.Random) -> None:
        body, status = rng.choice(BAD)
        self._expect(connection, body, status, "bad")
        time.sleep(0.05)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def sample(pids: list[int], seconds: float) -> tuple[dict[int, float], dict[int, list[float]]]:
    """MB a minute by each worker, and its memory over the time."""
    times, sizes = [], {pid: list[float]() for pid in pids}
    ends = time.monotonic() + seconds
    while (now := time.monotonic()) < ends:
        times.append(now / 60)
        for pid in pids:
            sizes[pid].append(harness.rss_mb(pid))
        time.sleep(seconds / SAMPLES)
    return {pid: float(np.polyfit(times, sizes[pid], 1)[0]) for pid in pids}, sizes


def at_rest(service: harness.Service) -> str:
    """Return in words what did not come back to rest; empty: nothing."""
    ends = time.monotonic() + REST_S
    while True:
        running = (service.get("/load")["server_load"], cast("dict[str, Any]", service.get("/progress"))["running"])
        if running == (0, 0) or time.monotonic() > ends:
            return "" if running == (0, 0) else f"requests at work, and shown as running: {running}"
        time.sleep(0.2)


@contextlib.contextmanager
def chosen_service(attach: list[int] | None) -> Iterator[harness.Service]:
    if attach:
        port, pid = attach
        yield harness.Service(cast("subprocess.Popen[str]", SimpleNamespace(pid=pid)), port)
    else:
        # A cache that is full at once: filling is not leaking.
        with harness.service(harness.minilm_cross_encoder(), cache_mb=1) as service:
            yield service


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--most-mb-a-minute", type=float, default=1)
    parser.add_argument("--attach", type=int, nargs=2, metavar=("PORT", "PID"))
    chosen = parser.parse_args()
    seconds = chosen.minutes * 60
    with chosen_service(chosen.attach) as service:
        _, workers = service.pids()
        before = {pid: descriptors(pid) for pid in workers}
        with Soak(service.port) as soak:
            time.sleep(seconds / 4)
            slopes, sizes = sample(workers, seconds * 3 / 4)
        left = at_rest(service)
        after = {pid: descriptors(pid) for pid in workers if Path(f"/proc/{pid}").exists()}
    print(harness.machine())
    print(f"{chosen.minutes:g} minutes: {dict(soak.met)}")
    memory = ", ".join(f"{size[0]:.0f} -> {size[-1]:.0f} MB ({slopes[pid]:+.2f}/min)" for pid, size in sizes.items())
    rows = [
        ("memory of the workers", memory, max(slopes.values()) < chosen.most_mb_a_minute),
        ("errors", str(dict(soak.wrong) or "none"), not soak.wrong),
        ("at rest afterwards", left or "yes", not left),
        (
            "file descriptors of the workers",
            f"{list(before.values())} -> {list(after.values())}",
            after.keys() == before.keys() and all(after[pid] <= before[pid] + NGINX_KEEPS for pid in after),
        ),
        ("every kind met", f"{len(soak.met)} of 6", len(soak.met) == 6),
    ]
    for what, figure, held in rows:
        print(f"{what:32} {figure:40} {'held' if held else 'NOT HELD'}")
    sys.exit(not all(held for _, _, held in rows))


if __name__ == "__main__":
    main()
