"""Speed through HTTP against what the same CPU can do in-process and against the tutorials' server, in one run.

Run: ./scripts/bench (it installs what the reference server needs)
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import harness
import load

from webapp.concurrency import NativeWaiter, allocate_lock, start_native_thread
from webapp.engine.artifact import load_engine
from webapp.engine.base import Session
from webapp.engine.pool import EnginePool
from webapp.engine.prepare.pipeline import prepare
from webapp.scheduling.batching import padded
from webapp.settings import Settings

WORDS_A_DOCUMENT = 150
"""About 190 tokens."""


def documents(count: int, seed: int) -> list[str]:
    return harness.texts(count, mean_words=WORDS_A_DOCUMENT, seed=seed)


class _Batches:
    """A WorkSource of batches cut beforehand: what the engine can do with no scheduler and no HTTP."""

    def __init__(self, session: Session, query: str, texts: Sequence[str], budget_tokens: int) -> None:
        self._lock = allocate_lock()
        encoded = session.encode_query(query)
        ids, lengths, _ = session.encode_documents(encoded, texts)
        order = sorted(range(len(texts)), key=lambda index: -int(lengths[index]))
        self._batches = []
        while order:
            length = padded(int(lengths[order[0]]))
            rows = max(1, budget_tokens // length)
            self._batches.append(([(encoded, ids[index]) for index in order[:rows]], length))
            order = order[rows:]
        self._left = len(self._batches)
        self.waiter = NativeWaiter()

    def step(self, scorer: Session) -> bool:
        with self._lock:
            batch = self._batches.pop(0) if self._batches else None
        if batch is None:
            return False
        scorer.score(*batch)
        with self._lock:
            self._left -= 1
            if not self._left:
                self.waiter.wake()
        return True


def ceiling(settings: Settings, texts: Sequence[str]) -> float:
    """Documents a second of the same artifact in-process: tokenised and sorted beforehand, all cores."""
    engine = load_engine(settings)
    engine.start(settings.engine_threads)
    best = 0.0
    for _ in range(2):  # the first run compiles the shapes
        source = _Batches(engine.open_session(), "what is the question", texts, settings.batch_tokens)

        class Started:
            info = engine.info

            def start(self, threads: int) -> None:
                """It is compiled."""

            def open_session(self) -> Session:
                return engine.open_session()

        began = time.perf_counter()
        EnginePool(Started(), source, threads=settings.engine_threads, start_thread=start_native_thread).start()
        source.waiter.wait(600)
        best = max(best, len(texts) / (time.perf_counter() - began))
    return best


def predict(model: Path, texts: Sequence[str]) -> float:
    """Documents a second of CrossEncoder.predict in-process."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(model), device="cpu")
    pairs = [("what is the question", text) for text in texts]
    encoder.predict(pairs[:8], show_progress_bar=False)
    began = time.perf_counter()
    encoder.predict(pairs, show_progress_bar=False)
    return len(pairs) / (time.perf_counter() - began)


@contextlib.contextmanager
def reference_server(model: Path) -> Iterator[int]:
    port = harness.free_port()
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("reference_server.py")), str(model), str(port)]
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/docs", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError("the reference server did not start") from None
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def row(name: str, outcome: load.Outcome, documents_each: int) -> float:
    rate = outcome.rate * documents_each
    p50, p99 = outcome.latency_ms(0.5), outcome.latency_ms(0.99)
    print(f"| {name} | {rate:.1f} | {outcome.rate:.2f} | {p50:.0f} | {p99:.0f} |", flush=True)
    return rate


def bodies(count: int, documents_each: int, seed: int, *, mean_words: int = WORDS_A_DOCUMENT) -> list[bytes]:
    return [
        harness.body(f"query {seed + number}", harness.texts(documents_each, mean_words=mean_words, seed=seed + number))
        for number in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a cross-encoder; default: one of the MiniLM-L6 shape")
    model = parser.parse_args().model or harness.minilm_cross_encoder()
    settings = Settings(model=str(model), state_dir=harness.STATE_DIR / "state")
    prepare(settings, print)
    texts = documents(200, seed=1)

    print(f"\n{harness.machine()}; {model.name}, documents of about 190 tokens, distinct\n")
    print("| in-process | documents/s |\n|---|---|")
    top = ceiling(settings, texts)
    print(f"| the artifact's ceiling: tokenised and sorted beforehand | {top:.1f} |", flush=True)
    plain = predict(model, texts[:100])
    print(f"| `CrossEncoder.predict` | {plain:.1f} |\n", flush=True)

    print("| through HTTP | documents/s | requests/s | p50 ms | p99 ms |\n|---|---|---|---|---|")
    with reference_server(model) as port:
        load.closed_loop(port, bodies(1, 10, 900), 1)
        reference_1 = load.closed_loop(port, bodies(4, 50, 1000), 1)
        row("reference server, 50 documents, concurrency 1", reference_1, 50)
        reference_4 = row(
            "reference server, 50 documents, concurrency 4", load.closed_loop(port, bodies(8, 50, 1100), 4), 50
        )
    with harness.service(model) as service:
        port = service.port
        load.closed_loop(port, bodies(8, 50, 2000), 4)
        ours_1 = load.closed_loop(port, bodies(8, 50, 1000), 1)
        row("50 documents, concurrency 1", ours_1, 50)
        fours = bodies(12, 50, 1100)
        ours_4 = row("50 documents, concurrency 4", load.closed_loop(port, fours, 4), 50)
        row("50 documents, concurrency 16", load.closed_loop(port, bodies(32, 50, 3000), 16), 50)
        row("1 document, concurrency 16", load.closed_loop(port, bodies(300, 1, 4000), 16), 1)
        large = row(
            "1,000 documents, concurrency 1",
            load.closed_loop(port, [harness.body("large", documents(1000, 1))], 1),
            1000,
        )
        row(
            "50 short documents (20 tokens), concurrency 4",
            load.closed_loop(port, bodies(40, 50, 5000, mean_words=14), 4),
            50,
        )
        cached = row("50 documents, all pairs cached, concurrency 4", load.closed_loop(port, fours * 20, 4), 50)
    with harness.service(engine="stub", cache_mb=0) as service:
        short = bodies(3000, 10, 6000, mean_words=14)
        row("stub engine, 10 short documents, concurrency 16", load.closed_loop(service.port, short, 16), 10)

    print("\n| ratio | |\n|---|---|")
    print(f"| 50 documents, concurrency 4, to the reference server | {ours_4 / reference_4:.2f} |")
    print(f"| the same to the in-process ceiling | {ours_4 / top:.2f} |")
    latency = reference_1.latency_ms(0.5) / ours_1.latency_ms(0.5)
    print(f"| 50 documents, concurrency 1: the reference server's latency to ours | {latency:.2f} |")
    print(f"| 1,000 documents, one request, to the ceiling | {large / top:.2f} |")
    print(f"| all pairs cached to uncached | {cached / ours_4:.1f} |")


if __name__ == "__main__":
    main()
