"""How long one core takes for requests of several sizes, HTTP and all: what bench/simulate.py is fed with.

Run: .venv/bin/python bench/simulate.py measure (some minutes). It writes bench/service_times.json.
"""

from __future__ import annotations

import contextlib
import json
import math
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

from webapp.config.settings import Settings
from webapp.domain.types import Session
from webapp.engine.loader import load_engine
from webapp.engine.prepare.autotune import batches, encode
from webapp.engine.prepare.pipeline import prepare

FILE = Path(__file__).with_suffix(".json")

SIZES = ((1, 60), (4, 60), (10, 14), (10, 30), (10, 60), (20, 60), (50, 60), (10, 150), (50, 150))
"""Documents, words in each."""

TIMES = 4
"""The best counts, by CPU time: whatever else the machine does only adds to it, and little."""

ASKED = ((1, 30, 60), (10, 14, 40), (10, 30, 30), (10, 60, 15), (50, 60, 5))
"""Documents, words in each, requests of a round through HTTP."""

ROUNDS = 5


@dataclass(frozen=True)
class ServiceTimes:
    """What one core takes for a request, stack, balancer and client together: `request_s + token_s * tokens`."""

    request_s: float
    token_s: float
    beside: float
    """Times as long while the other core does the same."""
    balancer_s: float
    """Time of a core for each request of 50 documents that the balancer passes on."""
    provenance: dict[str, Any]

    def seconds(self, tokens: int) -> float:
        """One request of so many tokens, queries and special ones counted."""
        return self.request_s + self.token_s * tokens


def read() -> ServiceTimes:
    """Return the last measurement."""
    return ServiceTimes(**json.loads(FILE.read_text()))


def settings_of(model: Path) -> Settings:
    return Settings(model=str(model), state_dir=harness.STATE_DIR / "state")


def measure() -> ServiceTimes:
    """Measure, and write it down."""
    model = harness.minilm_cross_encoder()
    settings = settings_of(model)
    prepare(settings, print)
    engine = load_engine(settings).info
    # In turn: a virtual machine's speed changes by the minute.
    cores = range(min(2, harness.cores()))
    turns = [(in_process(settings, [0])[0], np.mean(in_process(settings, cores), axis=0)) for _ in range(2)]
    alone, together = (np.min(best, axis=0) for best in zip(*turns, strict=True))
    with two_replicas.running(model, replicas=1) as (port, programs):
        asked = [_through_http(port, programs, *size) for size in ASKED]
    tokens = [tokens_of(settings, _texts(documents, words, requests)) for documents, words, requests in ASKED]
    # Relative errors count alike, whatever the size.
    columns = np.array([[1, count] for count in tokens]) / np.array(asked)[:, None]
    (request_s, token_s), *_ = np.linalg.lstsq(columns, np.ones(len(ASKED)), rcond=None)
    with two_replicas.running(engine="stub", replicas=1) as (port, programs):
        balancer_s = _through_http(port, programs[-1:], 50, 60, 400, client=False)
    made = ServiceTimes(
        float(request_s),
        float(token_s),
        max(1.0, float(np.median(together / alone))),
        balancer_s,
        {
            "command": "bench/simulate.py measure",
            "machine": harness.machine(),
            "engine": f"{engine.engine} {engine.precision}, MiniLM-L6 shape, one thread",
            "measured": time.strftime("%Y-%m-%d"),
            "in_process": [
                {"documents": documents, "words": words, "alone_s": float(one), "beside_s": float(two)}
                for (documents, words), one, two in zip(SIZES, alone, together, strict=True)
            ],
            "through_http": [
                {"documents": documents, "tokens": count, "cpu_s": seconds}
                for (documents, _, _), count, seconds in zip(ASKED, tokens, asked, strict=True)
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
    _score(session, asked[-1], budget_tokens, padded=engine.padded)  # warm
    best = [float("inf")] * len(SIZES)
    start.wait()
    for _ in range(TIMES):
        for place, texts in enumerate(asked):
            began = time.thread_time()
            _score(session, texts, budget_tokens, padded=engine.padded)
            best[place] = min(best[place], time.thread_time() - began)
    answer.send(best)


def _score(session: Session, texts: Sequence[str], budget_tokens: int, *, padded: bool) -> None:
    """Score in the batches that an engine thread makes."""
    encoded = encode(session, [("what is the question", text) for text in texts])
    for pairs, length, _ in batches(encoded, budget_tokens, padded=padded):
        session.score(pairs, length)


def tokens_of(settings: Settings, requests: Sequence[Sequence[str]]) -> float:
    """Tokens of a request, on average."""
    session = load_engine(settings).open_session()
    query = session.encode_query("query")
    return float(np.mean([session.encode_documents(query, texts)[1].sum() for texts in requests]))


def _texts(documents: int, words: int, requests: int) -> list[list[str]]:
    return [harness.texts(documents, mean_words=words, seed=20_000 + number) for number in range(requests)]


def _through_http(
    port: int, programs: Sequence[int], documents: int, words: int, requests: int, *, client: bool = True
) -> float:
    """CPU seconds of a request, of these programs and of this one that asks: the best round, one request at a time."""
    bodies = [harness.body("query", texts) for texts in _texts(documents, words, requests)]
    load.closed_loop(port, bodies, 1)  # warm
    best = math.inf
    for _ in range(ROUNDS):
        before = _cpu_s(programs, client)
        load.closed_loop(port, bodies, 1)
        best = min(best, (_cpu_s(programs, client) - before) / requests)
    return best


def _cpu_s(programs: Sequence[int], client: bool) -> float:  # noqa: FBT001 - two callers, above
    return client * time.process_time() + sum(map(harness.cpu_seconds, programs))
