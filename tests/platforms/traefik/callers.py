"""Usage: callers URL REPORT ADDRESS... Posts to URL/rerank by several kinds of clients until TERM.

It writes to REPORT what came of it, a JSON list of [kind, when it began, when it ended, what went wrong or ""]; times
are Unix seconds. A reply counts only with status 200 and the scores of all documents. Each client has one of the
addresses.
"""

from __future__ import annotations

import http.client
import itertools
import json
import math
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from webapp.engine.runtimes.stub import stub_logit

PATIENCE_S = 60.0

DOCUMENTS = {"small": (3, 40), "medium": (60, 5_000), "large": (100, 30_000)}
"""Number and characters of the documents of a body: less than 100 kB, less than 1 MB, 3 MB."""

KINDS = [
    ("small", "kept"),
    ("small", "kept"),
    ("small", "kept"),
    ("small", "fresh"),
    ("small", "fresh"),
    ("medium", "kept"),
    ("large", "kept"),
    ("large", "chunked"),
]
"""Size of the body, and how it comes: by a connection that is kept, by a new one each, or in chunks by a kept one."""

NEAR = 1e-3
"""The stub engine's scores have steps of up to 0.00025, and it cuts its logits to three digits."""

PAUSE_S = {"small": 0.005, "medium": 0.05, "large": 0.2}

Row = tuple[str, float, float, str]


def bodies(size: str) -> list[tuple[bytes, list[float]]]:
    """Return some bodies with the scores of their documents."""
    number, characters = DOCUMENTS[size]
    made = []
    for _ in range(8):
        documents = [f"{random.getrandbits(64):x}{' bee' * (characters // 4)}" for _ in range(number)]
        scores = [1 / (1 + math.exp(-stub_logit(text))) for text in documents]
        made.append((json.dumps({"query": "bees", "documents": documents}).encode(), scores))
    return made


def wrong(reply: http.client.HTTPResponse, scores: list[float]) -> str:
    """Return what is wrong with a reply; empty: nothing."""
    said = reply.read()
    if reply.status != http.client.OK:
        return f"{reply.status} {said[:200].decode(errors='replace')}"
    results = json.loads(said)["results"]
    given = {each["index"]: each["relevance_score"] for each in results}
    good = len(given) == len(scores) and all(abs(given[index] - score) < NEAR for index, score in enumerate(scores))
    return "" if good else f"scores of others: {said[:200].decode()}"


def call(number: int, url: str, address: str, ended: threading.Event) -> Iterator[Row]:
    """Yield a row of each request of one client."""
    size, way = KINDS[number]
    parts, choices = urlsplit(url), bodies(size)
    connection = None
    while not ended.wait(PAUSE_S[size]):
        body, scores = random.choice(choices)
        began = time.time()
        try:
            if connection is None:
                connection = http.client.HTTPConnection(parts.hostname or "", parts.port, PATIENCE_S, (address, 0))
            sent = iter([body[:1000], body[1000:]]) if way == "chunked" else body
            connection.request("POST", "/rerank", sent, {"Content-Type": "application/json"})
            problem = wrong(connection.getresponse(), scores)
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            problem = repr(error)
        if connection and (problem or way == "fresh"):
            connection.close()
            connection = None
        yield f"{size}, {way}", began, time.time(), problem


def main() -> None:
    """Run all clients and write the report."""
    url, report, *addresses = sys.argv[1:]
    rows: list[Row] = []
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    clients = [
        threading.Thread(target=lambda *of: rows.extend(call(*of)), args=(number, url, address, ended))
        for number, address in zip(range(len(KINDS)), itertools.cycle(addresses), strict=False)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    Path(report).write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
