"""Speed through HTTP against what the same CPU does in-process and against other servers, in one run.

Run: ./scripts/bench (--peers measures infinity too). It writes var/bench/speed.png.
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import harness
import load
import plot
import servers
from ceiling import Ceiling, predict

from webapp.config.settings import Settings
from webapp.engine.prepare.pipeline import prepare

WORDS = 150
"""A document of about 190 tokens."""

SHORT_WORDS = 14
"""A document of about 20 tokens."""

CONCURRENCY = (1, 4, 16)


def bodies(count: int, documents: int, seed: int, *, mean_words: int = WORDS) -> list[bytes]:
    """Distinct requests; infinity wants a model's name, the others ignore it."""
    return [
        harness.body(
            f"query {seed + number}",
            harness.texts(documents, mean_words=mean_words, seed=seed + number),
            model="bench",
        )
        for number in range(count)
    ]


class Table:
    """Markdown rows, and what they said, for the ratios and the plot."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], tuple[float, load.Outcome]] = {}
        print("| server | workload | documents/s | requests/s | p50 ms | p99 ms |\n|---|---|---|---|---|---|")

    def row(self, server: str, workload: str, outcome: load.Outcome, documents: int) -> None:
        rate = outcome.rate * documents
        self.outcomes[server, workload] = rate, outcome
        figures = f"{rate:.1f} | {outcome.rate:.2f} | {outcome.latency_ms(0.5):.0f} | {outcome.latency_ms(0.99):.0f}"
        print(f"| {server} | {workload} | {figures} |", flush=True)

    def rate(self, server: str, workload: str) -> float:
        return self.outcomes[server, workload][0]

    def p50(self, server: str, workload: str) -> float:
        return self.outcomes[server, workload][1].latency_ms(0.5)


def common(table: Table, server: str, port: int, scale: int) -> None:
    """Measure what is asked of every server. `scale`: how many requests, so that slow and fast ones take as long."""
    load.closed_loop(port, bodies(scale, 50, 900), 1)  # warm
    for concurrency in CONCURRENCY:
        count = max(concurrency, 2) * scale // (4 if concurrency > 4 else 1)
        outcome = load.closed_loop(port, bodies(max(count, concurrency), 50, 1000 * concurrency), concurrency)
        table.row(server, f"50 documents, concurrency {concurrency}", outcome, 50)
    table.row(server, "1 document, concurrency 16", load.closed_loop(port, bodies(60 * scale, 1, 40_000), 16), 1)
    short = bodies(6 * scale, 50, 50_000, mean_words=SHORT_WORDS)
    table.row(server, "50 short documents, concurrency 4", load.closed_loop(port, short, 4), 50)


def small_beside_large(table: Table, port: int) -> None:
    """4-document requests, alone and beside one of 5,000 documents."""
    small = bodies(100, 4, 60_000, mean_words=60)
    table.row("ours", "4 documents, idle", load.closed_loop(port, small, 1), 4)
    large = load.post(harness.body("large", harness.texts(5000, mean_words=60, seed=70_000)))
    thread = threading.Thread(target=lambda: load.Connection(port).send(large))
    thread.start()
    beside = bodies(2000, 4, 80_000, mean_words=60)  # distinct: none may come from the cache
    outcome = load.closed_loop(port, beside, 1, until=lambda: not thread.is_alive())
    table.row("ours", "4 documents, beside 5,000", outcome, 4)
    thread.join()


def ours(table: Table, model: Path, ceiling: Ceiling) -> dict[str, float]:
    """Everything of ours; returns the ceilings measured right before and after what they are compared with."""
    with harness.service(model) as service:
        port = service.port
        common(table, "ours", port, scale=4)
        texts = harness.texts(400, mean_words=WORDS, seed=1)
        ceiling.documents_per_s(texts)  # warm
        fours = bodies(24, 50, 110_000)
        before = ceiling.documents_per_s(texts)
        table.row("ours", "50 documents, concurrency 4, again", load.closed_loop(port, fours, 4), 50)
        between = ceiling.documents_per_s(texts)
        thousand = [harness.body("large", harness.texts(1000, mean_words=WORDS, seed=2))]
        table.row("ours", "1,000 documents, concurrency 1", load.closed_loop(port, thousand, 1), 1000)
        after = ceiling.documents_per_s(texts)
        cached = load.closed_loop(port, fours * 20, 4)
        table.row("ours", "50 documents, all pairs cached, concurrency 4", cached, 50)
        small_beside_large(table, port)
    short = bodies(6000, 10, 120_000, mean_words=SHORT_WORDS)
    for workers in (1, 2):
        with harness.service(engine="stub", cache_mb=0, workers=workers) as service:
            load.closed_loop(service.port, short[:500], 16)
            name = f"ours, stub engine, workers={workers}"
            table.row(name, "10 short documents, concurrency 16", load.closed_loop(service.port, short, 16), 10)
    return {"50": (before + between) / 2, "1000": (between + after) / 2}


def restart(model: Path) -> float:
    """Seconds from the command to the first answer, with a prepared artifact."""
    began = time.perf_counter()
    with harness.service(model):
        return time.perf_counter() - began


def ratios(table: Table, ceilings: dict[str, float], restarted_s: float) -> None:
    def p99(workload: str) -> float:
        return table.outcomes["ours", workload][1].latency_ms(0.99)

    again = table.rate("ours", "50 documents, concurrency 4, again")
    rows: list[tuple[str, float]] = []
    for server in dict.fromkeys(server for server, _ in table.outcomes if not server.startswith("ours")):
        rows += [
            (f"{workload}, to {server}", table.rate("ours", workload) / table.rate(server, workload))
            for workload in ("50 documents, concurrency 4", "1 document, concurrency 16")
        ]
        one = "50 documents, concurrency 1"
        rows.append((f"{one}: latency of {server} to ours", table.p50(server, one) / table.p50("ours", one)))
    rows += [
        (
            "documents a second: 1 document, concurrency 16, to 50 documents, concurrency 4",
            table.rate("ours", "1 document, concurrency 16") / table.rate("ours", "50 documents, concurrency 4"),
        ),
        ("50 documents, concurrency 4, to the in-process ceiling", again / ceilings["50"]),
        (
            "1,000 documents, one request, to the ceiling",
            table.rate("ours", "1,000 documents, concurrency 1") / ceilings["1000"],
        ),
        ("p99 of 4 documents beside 5,000 to idle", p99("4 documents, beside 5,000") / p99("4 documents, idle")),
        ("all pairs cached to uncached", table.rate("ours", "50 documents, all pairs cached, concurrency 4") / again),
        ("seconds until a restarted stack answers", restarted_s),
    ]
    print("\n| ratio | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a cross-encoder; default: one of the MiniLM-L6 shape")
    parser.add_argument("--peers", action="store_true", help="measure infinity too")
    options = parser.parse_args()
    model: Path = options.model or harness.minilm_cross_encoder()
    settings = Settings(model=str(model), state_dir=harness.STATE_DIR / "state")
    prepare(settings, print)
    ceiling = Ceiling(settings, harness.cores())
    info = ceiling.engine.info

    print(
        f"\n{harness.machine()}; {model.name}, {info.engine} {info.precision};"
        " documents of about 190 tokens, all distinct\n"
    )
    plain = predict(model, harness.texts(100, mean_words=WORDS, seed=1))
    table = Table()
    others: Sequence[tuple[str, Callable[[], contextlib.AbstractContextManager[int]]]] = [
        ("reference server", lambda: servers.reference(model))
    ]
    if options.peers:
        others = [
            *others,
            ("infinity, torch", lambda: servers.infinity(model, "torch")),
            ("infinity, ONNX int8", lambda: servers.infinity(model, "optimum")),
        ]
    for name, start in others:
        with start() as port:
            common(table, name, port, scale=1)
    ceilings = ours(table, model, ceiling)
    print("\n| in-process | documents/s |\n|---|---|")
    print(f"| the artifact's ceiling | {ceilings['50']:.1f} |\n| `CrossEncoder.predict` | {plain:.1f} |")
    ratios(table, ceilings, restart(model))
    plot.throughput_latency(table.outcomes, harness.STATE_DIR / "speed.png")


if __name__ == "__main__":
    main()
