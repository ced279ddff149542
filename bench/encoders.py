"""Big encoders through HTTP, in turn with `CrossEncoder.predict` and infinity in int8.

A request has 16 documents of 190 tokens. The shapes are bge-reranker-base's and -v2-m3's, with random weights. Printed
as well: what the artifact takes on disk, how long a restart takes until its first answer, and a worker's memory after
pairs of 512 tokens. infinity is measured if `./scripts/bench --peers` has installed it.

Run: .venv/bin/python bench/encoders.py [SHAPE ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import harness
import load
import memory
import preparing
import servers
import shapes
from ceiling import predict
from speed import WORDS, bodies

from webapp.config.settings import Settings
from webapp.engine.artifact import artifact_dir

DOCUMENTS = 16
CALLERS = 2
TURNS = 5

MAX_LENGTH_TOKENS = 512
"""What infinity and the models' makers cut at."""

LONG_WORDS = 900
"""A document of more than 512 tokens."""


def through_http(port: int, seed: int) -> float:
    """Return documents a second of two callers with one request each."""
    made = bodies(CALLERS, DOCUMENTS, seed, mean_words=WORDS)
    return load.closed_loop(port, made, CALLERS).rate * DOCUMENTS


def first_start(model: Path, settings: dict[str, object]) -> int:
    """Prepare and serve once; return the artifact's MB."""
    with harness.service(model, **settings):
        pass
    of_artifact = Settings(model=str(model), state_dir=harness.STATE_DIR / "state", **settings)
    files = [path for path in artifact_dir(of_artifact).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) // 10**6


def measure(name: str) -> None:
    model = preparing.encoder(name)
    settings: dict[str, object] = {
        **shapes.OPEN_GATE,
        "max_length_tokens": MAX_LENGTH_TOKENS,
        "request_timeout_s": load.TIMEOUT_S,
        "engine": "native",
    }
    megabytes = first_start(model, settings)
    with ExitStack() as stack:
        began = time.perf_counter()
        service = stack.enter_context(harness.service(model, **settings))
        load.closed_loop(service.port, bodies(1, 1, seed=1), 1)
        restart_s = time.perf_counter() - began
        _, (worker,) = service.pids()
        long = harness.body("long", harness.texts(4, mean_words=LONG_WORDS, seed=2), model="bench")
        load.closed_loop(service.port, [long], 1)
        used = memory.figures_mb(worker)
        print(f"\n{name}: {megabytes} MB on disk, {restart_s:.1f} s from a restart to the first answer; the worker has")
        print(f"{used['Pss']:.0f} MiB, {used['Private_Dirty']:.0f} of them its own")
        rivals: dict[str, Callable[[int], float]] = {
            "ours": lambda seed: through_http(service.port, seed),
            "`CrossEncoder.predict`": lambda seed: predict(
                model, harness.texts(DOCUMENTS, mean_words=WORDS, seed=seed)
            ),
        }
        if servers.PEERS.is_dir():
            port = stack.enter_context(servers.infinity(model, "optimum"))
            through_http(port, seed=3)  # warm
            rivals["infinity, ONNX int8"] = lambda seed: through_http(port, seed)
        rates: dict[str, list[float]] = {rival: [] for rival in rivals}
        for turn in range(TURNS):
            for rival, run in rivals.items():
                rates[rival].append(run(1000 * turn + 10))
    print(f"\n| {name} | documents/s, median | ours to it, median | each turn |\n|---|---|---|---|")
    for rival, each in rates.items():
        against = [ours / theirs for ours, theirs in zip(rates["ours"], each, strict=True)]
        turns = ", ".join(f"{ratio:.1f}" for ratio in against)
        print(f"| {rival} | {statistics.median(each):.2f} | {statistics.median(against):.2f} | {turns} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(preparing.ENCODERS), help=", ".join(preparing.ENCODERS))
    print(harness.machine())
    for name in parser.parse_args().shapes:
        measure(name)


if __name__ == "__main__":
    main()
