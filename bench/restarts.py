"""How long a reload, a restart, a drain and a stop take, and what callers see: the figures of docs/reliability.md.

`python bench/restarts.py --state-dir DIR --times 5` starts `reranking serve` there, with RERANK_* as they are set, and
asks it 20 times a second for a rerank and for `/ready`. The machine's load is printed with each figure.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import requests

from webapp.stack.processes import children
from webapp.stack.supervisor.client import Programs

EVERY_S = 0.05
CALM_S = 1.0


class Caller:
    """Asks for a rerank, and beside it for `/ready`, one call after the other; notes what it gets."""

    def __init__(self, url: str) -> None:
        self.seen: Counter[str] = Counter()
        self.longest_s = {"/rerank": 0.0, "/ready": 0.0}
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(path,)) for path in self.longest_s]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        time.sleep(CALM_S)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(CALM_S)
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, path: str) -> None:
        while not self._stop.wait(EVERY_S):
            began = time.monotonic()
            body = {"query": f"bees {began}", "documents": ["a bee finds home", "milk"]} if path == "/rerank" else None
            try:
                reply = requests.request("POST" if body else "GET", self._url + path, json=body, timeout=60)
                self.seen[f"{path} {reply.status_code}"] += 1
            except requests.RequestException:
                self.seen[f"{path} no answer"] += 1
            self.longest_s[path] = max(self.longest_s[path], time.monotonic() - began)


class Stack:
    """`reranking serve`, and commands beside it."""

    def __init__(self, state_dir: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._state_dir = state_dir
        self._environment = {**os.environ, "RERANK_STATE_DIR": str(state_dir), "RERANK_PORT": str(port)}

    def reranking(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "webapp", *arguments]
        subprocess.run(command, env=self._environment, check=True, stdout=subprocess.DEVNULL)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        command = [sys.executable, "-m", "webapp", "serve"]
        with subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "Ready: " in line:
                    break
            try:
                yield
            finally:
                process.terminate()

    def workers(self) -> set[int]:
        return set(children(Programs(self._state_dir / "run").of("webapp-blue").pid))

    def reload(self) -> None:
        """Until only new workers are there."""
        old = self.workers()
        self.reranking("reload")
        while not (now := self.workers()) or old & now:
            time.sleep(EVERY_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--port", type=int, default=18_480)
    parser.add_argument("--times", type=int, default=5)
    chosen = parser.parse_args()
    stack = Stack(chosen.state_dir, chosen.port)
    ways = {
        "reload": stack.reload,
        "restart": lambda: stack.reranking("restart"),
        "restart nginx": lambda: stack.reranking("restart", "nginx"),
        "drain --notice-s 5": lambda: stack.reranking("drain"),
        "stop": lambda: stack.reranking("stop"),
    }
    for name, way in ways.items():
        for _ in range(chosen.times):
            with stack.running(), Caller(stack.url) as caller:
                load = os.getloadavg()[0]
                began = time.monotonic()
                way()
                took_s = time.monotonic() - began
            longest = ", ".join(f"{path} {longest_s:.2f} s" for path, longest_s in caller.longest_s.items())
            print(f"{name}: {took_s:.1f} s; longest {longest}; {dict(caller.seen)}; load {load:.1f}", flush=True)


if __name__ == "__main__":
    main()
