"""Does a large body hold up others? /health and /ready, idle and beside bodies of the default limit, of every kind.

Run: .venv/bin/python bench/large_bodies.py [a part of a kind's name]
"""

from __future__ import annotations

import http.client
import json
import multiprocessing
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from multiprocessing import Queue
from multiprocessing.synchronize import Event

import harness
from responsiveness import timed

LIMIT = 32 * 1024 * 1024

SECONDS = 4.0
"""For each kind, at least one request of it."""

PAUSE_S = 0.005

GZIP = b"\x1f\x8b"

HEAD = '{"query": "how do bees find home", "return_documents": true, "top_k": 0, "top_n": 0, "documents": ['


def filled(unit: str, *, head: str = HEAD, tail: str = "]}", most: int = sys.maxsize) -> bytes:
    """A body as large as the limit, of one unit again and again, or of `most` of them."""
    count = min((LIMIT - len(head) - len(tail)) // (len(unit) + 1), most)
    return (head + ",".join([unit] * count) + tail).encode()


def kinds() -> Mapping[str, Callable[[], bytes]]:
    """Bodies that somebody may send, and some that nobody should; each is made when its turn comes."""
    text = " ".join(harness.texts(8, mean_words=60, seed=1))[:3000]
    meta = '{"content": "a", "metadata": {"v": ['
    return {
        "10,000 documents": lambda: filled(json.dumps(text), most=10_000),
        "10,000 documents with metadata": lambda: filled(
            json.dumps({"content": text, "metadata": {"id": 7}}), most=10_000
        ),
        "1,500 documents with embeddings": lambda: filled(
            json.dumps({"content": text, "metadata": {"v": [0.123456789] * 1500}})
        ),
        "one document": lambda: filled(json.dumps("bees " * 6_700_000)),
        "one document, Chinese": (HEAD + '"' + "\u8702" * (LIMIT // 3 - 100) + '"]}').encode,
        "one document, escapes": (HEAD + '"' + r"\u0041\n" * (LIMIT // 8 - 100) + '"]}').encode,
        "one document, lone surrogates": (HEAD + '"' + r"\ud800" * (LIMIT // 6 - 100) + '"]}').encode,
        "one document, blanks": (HEAD + '"' + " " * (LIMIT - 200) + '"]}').encode,
        "metadata, a list of numbers": lambda: filled("1.2345678901234567", head=HEAD + meta, tail="]}}]}"),
        "metadata, small objects": lambda: filled('{"a":1}', head=HEAD + meta, tail="]}}]}"),
        "empty objects": lambda: filled("{}"),
        "tiny texts": lambda: filled('"a"'),
        "numbers": lambda: filled("1"),
        "nested lists": lambda: b"[" * LIMIT,
        "no JSON": lambda: b"x" * LIMIT,
        "many fields": lambda: filled('"a":1', head='{"query": "q", "documents": ["a"], ', tail="}"),
        "gzip, 32 MB of documents": lambda: packed(filled(json.dumps(text), most=10_000)),
        "gzip, a bomb": lambda: packed(b" " * (LIMIT * 30)),
    }


def packed(body: bytes) -> bytes:
    """Compress a body with gzip."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(body) + packer.flush()


def send(port: int, body: bytes, begun: Event, told: Queue[str]) -> None:
    """Send a body again and again, in a process of its own; tells what it got."""
    took: dict[int, list[float]] = {}
    give_up = time.monotonic() + SECONDS
    headers = {"Content-Encoding": "gzip"} if body.startswith(GZIP) else {}
    begun.set()
    while not took or time.monotonic() < give_up:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", "/rerank", body, headers)
        reply = connection.getresponse()
        reply.read()
        connection.close()
        took.setdefault(reply.status, []).append(time.perf_counter() - began)
    told.put(", ".join(f"{len(each)} x {status} in {max(each):.1f} s" for status, each in took.items()))


def row(name: str, figures: list[float], told: str) -> None:
    figures.sort()
    p50, p99 = (figures[min(len(figures) - 1, int(len(figures) * share))] for share in (0.5, 0.99))
    print(f"| {name} | {len(figures)} | {p50:.1f} | {p99:.1f} | {figures[-1]:.1f} | {told} |", flush=True)


def measure(port: int, name: str, body: bytes) -> None:
    """Ask for /health and /ready beside one kind of body."""
    begun, told = multiprocessing.Event(), multiprocessing.Queue()
    sender = multiprocessing.Process(target=send, args=(port, body, begun, told))
    sender.start()
    begun.wait()
    figures = []
    while told.empty():
        figures += [timed(port, "GET", "/health"), timed(port, "GET", "/ready")]
        time.sleep(PAUSE_S)
    row(name, figures, told.get())
    sender.join()


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    print(f"{harness.machine()}; MiniLM-L6 shape, one worker\n")
    print("| beside | probes | p50 ms | p99 ms | worst ms | large requests |")
    print("|---|---|---|---|---|---|")
    with harness.service(harness.minilm_cross_encoder()) as service:
        row("nothing", [timed(service.port, "GET", "/health") for _ in range(300)], "")
        for name, make in kinds().items():
            if wanted in name:
                measure(service.port, name, make())


if __name__ == "__main__":
    main()
