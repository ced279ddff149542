"""Small requests beside a large one: how long do the small ones wait, and what does the large one lose?

Usage: python bench/mixed.py [--documents 5000]
One client sends small requests (4 documents) without pause: first alone, then while a large request runs. The large one
runs alone first. "Its time on the capacity left" is its time alone, divided by the share that the small ones left it.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Callable

import harness
import load

SMALL, WORDS, ALONE_S = 4, 40, 10.0


def small_requests(port: int, seed: int, until: Callable[[], bool]) -> load.Outcome:
    texts = harness.texts(400, mean_words=WORDS, seed=seed)
    bodies = [harness.body(f"small {n}", texts[n % 100 * SMALL : (n % 100 + 1) * SMALL]) for n in range(2000)]
    return load.closed_loop(port, bodies, 1, until=until)


def after(seconds: float) -> Callable[[], bool]:
    ends = time.perf_counter() + seconds
    return lambda: time.perf_counter() > ends


def large_request(port: int, documents: int, seed: int) -> float:
    request = load.post(harness.body("large", harness.texts(documents, mean_words=WORDS, seed=seed)))
    with contextlib.closing(load.Connection(port)) as connection:
        began = time.perf_counter()
        status, answer = connection.send(request)
        assert status == 200, answer
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=5000)
    documents = parser.parse_args().documents
    with harness.service(harness.minilm_cross_encoder(), cache_mb=0) as service:
        port = service.port
        small_requests(port, 1, after(2))  # warm
        idle = small_requests(port, 2, after(ALONE_S))
        alone_s = large_request(port, documents, 3)
        together: list[float] = []
        large = threading.Thread(target=lambda: together.append(large_request(port, documents, 4)))
        large.start()
        busy = small_requests(port, 5, lambda: not large.is_alive())
        large.join()
    # What a small request takes of the engine: its time alone, for it is then the engine's only work.
    left = 1 - min(0.95, busy.rate / idle.rate)
    slower = busy.latency_ms(0.99) / idle.latency_ms(0.99)
    print(harness.machine())
    print(
        f"small ({SMALL} documents), p50 / p99: alone {idle.latency_ms(0.5):.0f} / {idle.latency_ms(0.99):.0f} ms,"
        f" beside a large one {busy.latency_ms(0.5):.0f} / {busy.latency_ms(0.99):.0f} ms: x{slower:.1f}"
    )
    print(
        f"large ({documents} documents): alone {alone_s:.1f} s, beside small ones {together[0]:.1f} s,"
        f" x{together[0] / (alone_s / left):.2f} of its time on the capacity left ({left:.0%})"
    )


if __name__ == "__main__":
    main()
