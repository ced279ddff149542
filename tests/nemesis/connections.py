"""Hold thousands of connections from one address, while another address goes on asking.

By itself: `python tests/nemesis/connections.py [EACH] [SECONDS]`.
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nemesis.hostile import Figures, Hostile, Kind, kinds
from nemesis.row import Row

if TYPE_CHECKING:
    from running import Stack

HOSTILE = "127.0.0.2"
OTHER = "127.0.0.3"

ASKED = 100
"""Requests of the other address to each path."""

PATIENCE_S = 30.0

KEY = "the-key"


def run(stack: Stack, *, key: str = KEY, each: int = 10_000, seconds: float = 60.0) -> list[Row]:
    """Hold connections of one kind after the other.

    Args:
        stack: a started one, with keys and without TLS.
        key: one of its keys.
        each: connections of each kind that one address tries to hold.
        seconds: over which the other address spreads its requests; 0: as fast as they are answered.
    """
    return [hold(stack, kind, key=key, each=each, seconds=seconds)[0] for kind in kinds(key)]


def hold(stack: Stack, kind: Kind, *, key: str, each: int, seconds: float) -> tuple[Row, Figures]:
    """Hold connections of this kind while the other address asks; returns what both saw."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    hostile = context.Process(target=_be_hostile, args=(kind, stack.port, each, theirs))
    hostile.start()
    theirs.close()
    try:
        ours.recv()  # all have been opened once
        row = _ask(stack, key, kind, seconds)
        pusher = psutil.Process(stack.pid_of("pusher")).memory_info().rss
        ours.send("stop")
        figures: Figures = ours.recv()
    finally:
        ours.close()
        hostile.join(PATIENCE_S)
        hostile.kill()
    kept = f"{figures.held:,} held, {figures.ended:,} of {figures.opened:,} closed"
    row.note = f"{kept}; the pusher {pusher >> 20} MiB; {row.note}"
    return row, figures


def _be_hostile(kind: Kind, port: int, count: int, told: Connection) -> None:
    """Hold connections until told to stop, or until the parent is gone."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = Hostile(kind, port, count, HOSTILE)
    while clients.figures.opened < count:
        clients.turn()
    try:
        told.send("go")
        while not told.poll():
            clients.turn()
        clients.look()
        told.send(clients.figures)
    except (EOFError, OSError):
        pass
    clients.close()


def _ask(stack: Stack, key: str, kind: Kind, seconds: float) -> Row:
    """Ask from another address, each time by a connection of its own."""
    paths = ["/ready", "/rerank"]
    if kind.name == "event streams":
        paths += ["/dashboard/", "/progress"]
    row = Row(f"connections of one address: {kind.name}")
    answers: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(ASKED * len(paths)):
        path = paths[number % len(paths)]
        due = began + seconds * number / (ASKED * len(paths))
        time.sleep(max(0.0, due - time.monotonic()))
        asked = time.monotonic()
        status = _status(stack.port, path, key)
        row.requests += 1
        row.longest_s = max(row.longest_s, time.monotonic() - asked)
        row.lost += status != "200"
        answers[f"{path} {status}"] += 1
    row.note = ", ".join(f"{times} x {answer}" for answer, times in sorted(answers.items()))
    return row


def _status(port: int, path: str, key: str) -> str:
    body = json.dumps({"query": "q", "documents": ["a", "b"]}) if path == "/rerank" else None
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S, source_address=(OTHER, 0))
    try:
        connection.request("POST" if body else "GET", path, body, {"X-Api-Key": key})
        reply = connection.getresponse()
        reply.read()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    else:
        return str(reply.status)
    finally:
        connection.close()


def main(arguments: Sequence[str], say: Callable[[str], object] = print) -> int:
    """Start a stack, and hold connections to it; returns the exit code."""
    from running import Stack

    each, seconds = (int(arguments[0]), float(arguments[1])) if arguments else (10_000, 60.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Stack(Path(folder) / "state", engine="stub", api_keys=KEY, log_level="info") as stack,
    ):
        rows = run(stack, each=each, seconds=seconds)
    for row in rows:
        say(f"{row.fault}: {row.requests} requests, {row.lost} lost, longest {row.longest_s:.2f} s; {row.note}")
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
