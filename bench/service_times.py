"""How long one core takes for requests of several sizes, and what HTTP adds: what bench/simulate.py is fed with.

Run: .venv/bin/python bench/simulate.py measure (some minutes). It writes bench/service_times.json.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import harness
import load
import numpy as np
import two_replicas

from webapp.engine.artifact import load_engine
from webapp.engine.base import Session
from webapp.engine.prepare.pipeline import prepare
from webapp.settings import Settings

FILE = Path(__file__).with_suffix(".json")

SIZES = ((1, 60), (4, 60), (10, 14), (10, 30), (10, 60), (20, 60), (50, 60), (10, 150), (50, 150))
"""Documents, words in each."""

TIMES = 15
"""The best counts, by CPU time: whatever else the machine does only adds to it, and little."""


@dataclass(frozen=True)
class ServiceTimes:
    """What one core takes: `http_s + request_s + token_s * tokens`."""

    request_s: float
    token_s: float
    http_s: float
    """What balancer, nginx, gunicorn and client add."""
    beside: float
    """Times as long while the other core does the same."""
    balancer_s: float
    """Of a core, for each request of 50 documents that the balancer passes on."""
    provenance: dict[str, Any]

    def seconds(self, tokens: int) -> float:
        """One request of so many tokens, queries and special ones counted, all of it, on one core."""
        return self.http_s + self.request_s + self.token_s * tokens


def read() -> ServiceTimes:
    """What was measured last."""
    return ServiceTimes(**json.loads(FILE.read_text()))


def settings_of(model: Path) -> Settings:
    return Settings(model=str(model), state_dir=harness.STATE_DIR / "state")


def measure() -> ServiceTimes:
    """Measure, and write it down."""
    settings = settings_of(harness.minilm_cross_encoder())
    prepare(settings, print)
    alone = in_process(settings, [0])[0]
    together = [np.mean(pair) for pair in zip(*in_process(settings, range(min(2, harness.cores()))), strict=True)]
    counts = [tokens_of(settings, documents, words) for documents, words in SIZES]
    # Relative errors count alike, whatever the size.
    columns = np.array([[1, count] for count in counts]) / np.array(alone)[:, None]
    (request_s, token_s), *_ = np.linalg.lstsq(columns, np.ones(len(SIZES)), rcond=None)
    beside = float(np.median(np.array(together) / np.array(alone)))
    engine = load_engine(settings).info
    http_s, _ = http_seconds(10, 30)
    _, balancer_s = http_seconds(50, 60)
    made = ServiceTimes(
        max(0.0, float(request_s)),
        float(token_s),
        http_s,
        beside,
        balancer_s,
        {
            "command": "bench/simulate.py measure",
            "machine": harness.machine(),
            "engine": f"{engine.engine} {engine.precision}, MiniLM-L6 shape, one thread",
            "measured": time.strftime("%Y-%m-%d"),
            "rows": [
                {"documents": documents, "words": words, "tokens": tokens, "alone_s": one, "beside_s": float(two)}
                for (documents, words), tokens, one, two in zip(SIZES, counts, alone, together, strict=True)
            ],
        },
    )
    FILE.write_text(json.dumps(asdict(made), indent=1) + "\n")
    return made


def in_process(settings: Settings, cores: Sequence[int]) -> list[list[float]]:
    """Best seconds of each size, for each of these cores, all of which are at work at the same time."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(len(cores))
    with contextlib.ExitStack() as stack:
        pipes = []
        for core in cores:
            ours, theirs = context.Pipe()
            process = context.Process(target=_worker, args=(str(settings.model), core, start, theirs))
            process.start()
            stack.callback(process.join)
            pipes.append(ours)
        return [pipe.recv() for pipe in pipes]


def _worker(model: str, core: int, start: Any, answer: Any) -> None:
    os.sched_setaffinity(0, {core})
    settings = settings_of(Path(model))
    engine = load_engine(settings)
    engine.start(1)
    session, budget_tokens = engine.open_session(), engine.info.tuning.batch_tokens
    asked = [harness.texts(documents, mean_words=words, seed=documents + words) for documents, words in SIZES]
    _score(session, asked[-1], budget_tokens)  # warm
    best = [float("inf")] * len(SIZES)
    start.wait()
    for _ in range(TIMES):
        for place, texts in enumerate(asked):
            began = time.thread_time()
            _score(session, texts, budget_tokens)
            best[place] = min(best[place], time.thread_time() - began)
    answer.send(best)


def _score(session: Session, texts: Sequence[str], budget_tokens: int) -> None:
    """As an engine thread does: batches of neighbours by length."""
    query = session.encode_query("what is the question")
    ids, lengths, _ = session.encode_documents(query, texts)
    order = sorted(range(len(texts)), key=lambda index: -int(lengths[index]))
    while order:
        rows = max(1, budget_tokens // int(lengths[order[0]]))
        session.score([(query, ids[index]) for index in order[:rows]], int(lengths[order[0]]))
        order = order[rows:]


def tokens_of(settings: Settings, documents: int, words: int) -> int:
    session = load_engine(settings).open_session()
    texts = harness.texts(documents, mean_words=words, seed=documents + words)
    return int(session.encode_documents(session.encode_query("what is the question"), texts)[1].sum())


def http_seconds(documents: int, words: int) -> tuple[float, float]:
    """CPU time of a request that costs no scoring: of stack, balancer and client together; of the balancer alone."""
    with two_replicas.running(engine="stub", replicas=1) as (port, programs):
        bodies = [harness.body(f"q {n}", harness.texts(documents, mean_words=words, seed=n)) for n in range(1000)]
        load.closed_loop(port, bodies[:100], 1)  # warm
        before = [time.process_time(), *map(harness.cpu_seconds, programs)]
        load.closed_loop(port, bodies, 1)
        after = [time.process_time(), *map(harness.cpu_seconds, programs)]
        taken = [(late - early) / len(bodies) for early, late in zip(before, after, strict=True)]
        return sum(taken), taken[-1]
