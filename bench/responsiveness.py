"""Does a large request hold up others? /health and a 4-document request, idle and beside 3,000 documents.

Run: .venv/bin/python bench/responsiveness.py
"""

from __future__ import annotations

import http.client
import threading
import time

import harness
import load


def timed(port: int, method: str, path: str, data: bytes | None = None) -> float:
    """Return the milliseconds of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    began = time.perf_counter()
    connection.request(method, path, data)
    reply = connection.getresponse()
    reply.read()
    took = (time.perf_counter() - began) * 1000
    connection.close()
    assert reply.status == 200, reply.status
    return took


def row(name: str, figures: list[float]) -> None:
    at = [load.percentile(figures, share) for share in (0.5, 0.95, 0.99)]
    print(f"| {name} | {len(figures)} | {at[0]:.1f} | {at[1]:.1f} | {at[2]:.1f} |", flush=True)


def main() -> None:
    print(f"{harness.machine()}; MiniLM-L6 shape, documents of about 80 tokens\n")
    print("| request | count | p50 ms | p95 ms | p99 ms |")
    print("|---|---|---|---|---|")
    small = [harness.body("small one", harness.texts(4, mean_words=60, seed=seed)) for seed in range(1000)]
    large = harness.body("large one", harness.texts(3000, mean_words=60, seed=5000))
    with harness.service(harness.minilm_cross_encoder()) as service:
        port = service.port
        row("health, idle", [timed(port, "GET", "/health") for _ in range(300)])
        row("4 documents, idle", [timed(port, "POST", "/rerank", small.pop()) for _ in range(100)])
        thread = threading.Thread(target=timed, args=(port, "POST", "/rerank", large))
        thread.start()
        health: list[float] = []
        beside: list[float] = []
        while thread.is_alive() and small:
            health += [timed(port, "GET", "/health") for _ in range(5)]
            beside.append(timed(port, "POST", "/rerank", small.pop()))
        thread.join()
        row("health, beside 3,000 documents", health)
        row("4 documents, beside 3,000 documents", beside)


if __name__ == "__main__":
    main()
