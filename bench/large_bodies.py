"""Does a large body hold up others, and what memory does it take? Measured on a running stack.

First /health and /ready, idle and beside bodies within the default limits, of every kind and at every path that reads
one; small bodies too, which are read on the hub. Then many large bodies at once: what the worker and its reading
process add at the peak, and what stays.

Run: .venv/bin/python bench/large_bodies.py [--engine stub] [--only PART_OF_A_KIND] [--seconds 4] [--at-once 60]
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import multiprocessing
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Self

import harness
import load
from backports import zstd
from responsiveness import timed

from webapp.api.json_body import values_at_most

LIMIT = 32 * 1024 * 1024

SMALL = 64 * 1024
"""Bodies up to this are read on the hub."""

MOST_VALUES = 2_000_000
"""Values and names that a body may hold."""

PAUSE_S = 0.005

MB = 1_000_000

HEAD = '{"query": "how do bees find home", "return_documents": true, "top_k": 0, "top_n": 0, "documents": ['
META = '{"content": "a", "metadata": {"v": ['


@dataclass(frozen=True)
class Kind:
    """Bodies of one kind; each is made when its turn comes."""

    make: Callable[[int], bytes]
    path: str = "/rerank"
    headers: Mapping[str, str] = field(default_factory=dict)
    small: bool = True
    """Whether one of 64 KB is sent, too."""


def filled(
    unit: str | Callable[[int], str], *, head: str = HEAD, tail: str = "]}", most: int = sys.maxsize
) -> Callable[[int], bytes]:
    """Return a maker of bodies of the size asked for, of one unit again and again, or of `most` of them."""

    def make(size: int) -> bytes:
        first = unit if isinstance(unit, str) else unit(0)
        count = min((size - len(head) - len(tail)) // (len(first) + 1), most)
        units = [unit] * count if isinstance(unit, str) else map(unit, range(count))
        return (head + ",".join(units) + tail).encode()

    return make


def one(text: Callable[[int], str], *, head: str = HEAD + '"', tail: str = '"]}') -> Callable[[int], bytes]:
    """Return a maker of bodies around one text of so many bytes."""
    return lambda size: (head + text(size - len(head) - len(tail)) + tail).encode()


def kinds() -> Iterator[tuple[str, Kind]]:
    """Bodies that somebody may send, and many that nobody should."""
    text = " ".join(harness.texts(8, mean_words=60, seed=1))[:3000]
    yield from {
        "10,000 texts": Kind(filled(json.dumps(text), most=10_000)),
        "10,000 documents with metadata": Kind(
            filled(json.dumps({"content": text, "metadata": {"id": 7}}), most=10_000)
        ),
        "10,000 documents with text and a key": Kind(filled(json.dumps({"text": text, "id": 7}), most=10_000)),
        "documents with embeddings": Kind(
            filled(json.dumps({"content": text, "metadata": {"v": [0.012345678901234567] * 1500}})), small=False
        ),
        "10,000 documents with many keys": Kind(
            filled(json.dumps({"text": "a", **{f"key{number}": 1 for number in range(300)}}), most=10_000)
        ),
        "one text": Kind(one(lambda size: "bees " * (size // 5))),
        "one text, Chinese": Kind(one(lambda size: "\u8702" * (size // 3))),
        "one text, escapes": Kind(one(lambda size: r"\u0041\n" * (size // 8))),
        "one text, lone surrogates": Kind(one(lambda size: r"\ud800" * (size // 6))),
        "one text, backslashes": Kind(one(lambda size: "\\" * (size // 2 * 2))),
        "one text, one emoji": Kind(one(lambda size: "\U0001f41d" + "a" * (size - 4))),
        "one text, blanks": Kind(one(lambda size: " " * size)),
        "one query": Kind(one(lambda size: "bees " * (size // 5), head='{"documents": ["a"], "query": "')),
        "one model name": Kind(
            one(lambda size: "m" * size, head='{"query": "q", "documents": ["a"], "model": "', tail='"}')
        ),
        "metadata, empty lists": Kind(filled("[]", head=HEAD + META, tail="]}}]}")),
        "metadata, empty lists and half a surrogate pair": Kind(filled("[]", head=HEAD + META, tail=r',"\ud800"]}}]}')),
        "metadata, numbers": Kind(filled("1.2345678901234567", head=HEAD + META, tail="]}}]}")),
        "metadata, small objects": Kind(filled('{"a":1}', head=HEAD + META, tail="]}}]}")),
        "metadata, one long number": Kind(one(lambda size: "1" * size, head=HEAD + META, tail="]}}]}")),
        "metadata, nested deeply": Kind(
            one(lambda size: "[" * (size // 2) + "]" * (size // 2), head=HEAD + META, tail="]}}]}")
        ),
        "metadata that is a list": Kind(filled("[]", head=HEAD + '{"content": "a", "metadata": [', tail="]}]}")),
        "text objects": Kind(filled('{"text":""}')),
        "content objects": Kind(filled('{"content":""}')),
        "empty objects": Kind(filled("{}")),
        "objects of other keys each": Kind(filled(lambda number: f'{{"k{number:07d}":1}}')),
        "tiny texts": Kind(filled('"a"')),
        "tiny texts, half a surrogate pair": Kind(filled('"a"', tail=r',"\ud800"]}')),
        "numbers": Kind(filled("1")),
        "parts": Kind(filled('"a"', head='{"query": "q", "documents": [{"content": [', tail="]}]}")),
        "parameters": Kind(
            filled("[]", head='{"query": "q", "documents": ["a"], "parameters": {"a": [', tail="]}}"),
            headers={"X-Pinecone-Api-Version": "2025-10"},
        ),
        "one field again and again": Kind(filled('"a":1', head='{"query": "q", "documents": ["a"], ', tail="}")),
        "many fields": Kind(
            filled(lambda number: f'"{number:07d}":1', head='{"query": "q", "documents": ["a"], ', tail="}")
        ),
        "rank_fields": Kind(filled('"b"', head='{"query": "q", "documents": [{"text": "a"}], "rank_fields": [')),
        "nested lists": Kind(lambda size: b"[" * size),
        "no JSON": Kind(lambda size: b"x" * size),
        "not UTF-8": Kind(lambda size: b'{"query": "' + b"\xff" * (size - 11)),
        "batch, tiny requests": Kind(
            filled('{"query":"q","documents":["a"]}', head="[", tail="]"), "/rerank/batch", small=False
        ),
        "batch, 1,000 requests": Kind(
            filled('{"query":"q","documents":["a"]}', head="[", tail="]", most=1000), "/rerank/batch"
        ),
        "batch, numbers": Kind(filled("1", head="[", tail="]"), "/rerank/batch"),
        "batch, empty objects": Kind(filled("{}", head="[", tail="]"), "/rerank/batch"),
        "tokenize, tiny texts": Kind(filled('"a"', head='{"inputs": ['), "/tokenize"),
        "tokenize, empty texts": Kind(filled('""', head='{"inputs": ['), "/tokenize"),
        "tokenize, a million characters": Kind(
            lambda size: b'{"inputs": "' + b"a b " * (min(size, 999_000) // 4) + b'"}', "/tokenize"
        ),
    }.items()
    for path in ("/v1/rerank", "/v2/rerank", "/infinity/rerank", "/api/rerank", "/v1/retrieval/m/reranking"):
        yield f"{path}, text objects", Kind(filled('{"text":"aa","i":1}', most=10_000), path)
    yield "/predict, pairs", Kind(filled('["a","b"]', head='{"inputs": ['), "/predict")
    yield "texts", Kind(filled('"aa"', head='{"query": "q", "texts": [', most=10_000))
    yield "/score, texts", Kind(filled('"aa"', head='{"text_1": "q", "text_2": ['), "/score")
    yield "candidates", Kind(filled('{"id":"1","text":"aa"}', head='{"query": "q", "candidates": ['))
    yield "input", Kind(filled('{"text":"aa"}', head='{"query": "q", "return_input": true, "input": ['))
    yield "property", Kind(filled('"aa"', head='{"query": "q", "property": "", "documents": ['))
    packers: Mapping[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
    for coding, pack in packers.items():
        headers = {"Content-Encoding": coding}
        yield f"{coding}, 10,000 texts", Kind(packed(filled(json.dumps(text), most=10_000), pack), headers=headers)
        yield (
            f"{coding}, empty lists",
            Kind(packed(filled("[]", head=HEAD + META, tail="]}}]}"), pack), headers=headers),
        )
        yield f"{coding}, a bomb", Kind(lambda _, pack=pack: pack(b" " * LIMIT * 30), headers=headers, small=False)
        yield f"{coding}, members", Kind(lambda size, pack=pack: pack(b"") * (size // len(pack(b""))), headers=headers)


def packed(make: Callable[[int], bytes], pack: Callable[[bytes], bytes]) -> Callable[[int], bytes]:
    """Return a maker of bodies that unpack to the limit, whatever the size asked for."""
    return lambda _: pack(make(LIMIT))


def post(port: int, kind: Kind, body: bytes) -> tuple[int, str]:
    """Send one body; returns the status and `Retry-After`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", kind.path, body, kind.headers)
        reply = connection.getresponse()
        reply.read()
        return reply.status, reply.headers.get("Retry-After", "")
    finally:
        connection.close()


def send(port: int, kind: Kind, body: bytes, *, seconds: float, begun: Event, told: Queue[str]) -> None:
    """Send a body again and again, in a process of its own; tells what it got."""
    took: dict[int, list[float]] = {}
    give_up = time.monotonic() + seconds
    begun.set()
    while not took or time.monotonic() < give_up:
        began = time.perf_counter()
        status, _ = post(port, kind, body)
        took.setdefault(status, []).append(time.perf_counter() - began)
    told.put(", ".join(f"{len(each)} x {status} in {max(each):.1f} s" for status, each in took.items()))


def row(name: str, figures: list[float], told: str) -> None:
    p50, p99 = (load.percentile(figures, share) for share in (0.5, 0.99))
    print(f"| {name} | {len(figures)} | {p50:.1f} | {p99:.1f} | {max(figures):.1f} | {told} |", flush=True)


def measure(port: int, name: str, kind: Kind, body: bytes, *, seconds: float) -> None:
    """Ask for /health and /ready beside one kind of body."""
    begun, told = multiprocessing.Event(), multiprocessing.Queue()
    sender = multiprocessing.Process(
        target=send, args=(port, kind, body), kwargs={"seconds": seconds, "begun": begun, "told": told}
    )
    sender.start()
    begun.wait()
    figures = []
    while not figures or told.empty():
        figures += [timed(port, "GET", "/health"), timed(port, "GET", "/ready")]
        time.sleep(PAUSE_S)
    row(name, figures, told.get())
    sender.join()


class Memory:
    """Memory of the workers and of all that they started, watched by a thread."""

    def __init__(self, service: harness.Service) -> None:
        self._service = service
        self.peak = self.now()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def now(self) -> int:
        """Resident bytes, pages of files not counted."""
        return sum(map(_private_bytes, self._service.pids()[1]))

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, self.now())


def _private_bytes(pid: int) -> int:
    try:
        own = Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:  # it ended
        return 0
    children = [int(child) for task in tasks for child in task.split()]  # each is a thread's
    return (int(own[0]) * 1024 if own else 0) + sum(map(_private_bytes, children))


def at_once(service: harness.Service, name: str, kind: Kind, body: bytes, count: int) -> None:
    """Send so many bodies at once; tell what memory that adds, and what stays."""
    time.sleep(2)
    memory = Memory(service)
    before = memory.now()
    answers: Counter[str] = Counter()

    def ask() -> None:
        status, later = post(service.port, kind, body)
        answers[f"{status} with Retry-After" if later else str(status)] += 1

    with memory:
        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    time.sleep(5)
    told = ", ".join(f"{times} x {answer}" for answer, times in sorted(answers.items()))
    peak, stays = (memory.peak - before) // MB, (memory.now() - before) // MB
    print(f"| {name} | {before // MB} | {peak:+} | {stays:+} | {told} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", default="", help="stub: answers come at once; default: the MiniLM-L6 shape")
    parser.add_argument("--only", default="", help="part of the names of the kinds to send")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="for each kind, at least one request of it; 0: leave that part out"
    )
    parser.add_argument("--at-once", type=int, default=60, help="bodies of 30 MB at once; 0: leave that part out")
    chosen = parser.parse_args()
    settings = {"engine": chosen.engine} if chosen.engine else {}
    model = None if chosen.engine else harness.minilm_cross_encoder()
    print(f"{harness.machine()}; {chosen.engine or 'MiniLM-L6 shape'}, one worker\n")
    print("| beside | probes | p50 ms | p99 ms | worst ms | requests |")
    print("|---|---|---|---|---|---|")
    with harness.service(model, **settings) as service:
        row("nothing", [timed(service.port, "GET", "/health") for _ in range(300)], "")
        for name, kind in kinds():
            if not chosen.seconds or chosen.only not in name:
                continue
            body = kind.make(LIMIT)
            measure(service.port, name, kind, body, seconds=chosen.seconds)
            if (values := values_at_most(body)) > MOST_VALUES and not kind.headers.get("Content-Encoding"):
                fewer = kind.make(LIMIT * MOST_VALUES // values)
                measure(service.port, f"{name}, as many as are taken", kind, fewer, seconds=chosen.seconds)
            if kind.small:
                measure(service.port, f"{name}, 64 KB", kind, kind.make(SMALL), seconds=chosen.seconds / 4)
        if not chosen.at_once:
            return
        print(f"\n{chosen.at_once} bodies of 30 MB at once:\n")
        print("| kind | MB before | peak | stays after 5 s | answers |")
        print("|---|---|---|---|---|")
        for name, kind in kinds():
            if chosen.only in name and name.startswith(AT_ONCE):
                at_once(service, name, kind, kind.make(30 * MB), chosen.at_once)


AT_ONCE = (
    "10,000 texts",
    "10,000 documents",
    "documents with embeddings",
    "one text",
    "metadata, empty lists",
    "content objects",
    "empty objects",
    "tiny texts",
    "objects of other keys each",
    "gzip, 10,000 texts",
)


if __name__ == "__main__":
    main()
