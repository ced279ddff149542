"""Two real replicas and two simulated ones, asked for the same at the same instants."""

from __future__ import annotations

import os
import time

import harness
import load
import numpy as np
import scheduled
import service_times
import two_replicas

from webapp.engine.artifact import load_engine

DOCUMENTS, WORDS = 10, 30

LOADS = (0.3, 0.5, 0.7)
"""Of what both cores can carry by the measured service times."""

SEEDS = 5
"""The balancer draws: the simulation's figures are means of so many."""


def compare(requests: int) -> None:
    """Print a table; "NOT HELD" where p50 or p99 differ by more than 20 %."""
    known = service_times.read()
    model = harness.minilm_cross_encoder()
    engine = load_engine(service_times.settings_of(model))
    session = engine.open_session()
    texts = [harness.texts(DOCUMENTS, mean_words=WORDS, seed=10_000 + number) for number in range(requests)]
    query = session.encode_query("query")
    lengths = {}
    for each in texts:
        lengths |= dict(zip(each, session.encode_documents(query, each)[1].tolist(), strict=True))
    tokens = np.array([sum(map(lengths.__getitem__, each)) for each in texts])
    alone_s = known.token_s * tokens + known.request_s + known.http_s
    print(f"{harness.machine()}; {requests} requests of {DOCUMENTS} documents, {np.mean(tokens):.0f} tokens on average")
    print(
        f"service time {1000 * alone_s.mean():.1f} ms, {known.beside:.2f} times that while the other core is at work\n"
    )
    print(
        "| load | requests/s | real p50 ms | simulated | real p99 ms | simulated | within 20 % | cores used by others |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with two_replicas.running(model) as (port, _):
        bodies = [load.post(harness.body("query", each)) for each in texts]
        two_replicas.replay(port, bodies[:50], np.arange(50) * alone_s.mean())  # warm
        for share in LOADS:
            # The other core is at work for that share of the time, and slows this one down by then.
            slower = 1 + (known.beside - 1) * share
            rate = 2 * share / (slower * alone_s.mean())
            at_s = np.cumsum(np.random.default_rng(int(100 * share)).exponential(1 / rate, requests))
            others, began = _others_s(), time.perf_counter()
            real = np.array(two_replicas.replay(port, bodies, at_s.tolist()))
            busy = (_others_s() - others) / (time.perf_counter() - began)
            runs = [
                scheduled.simulate(
                    at_s,
                    texts,
                    lengths,
                    replicas=2,
                    token_s=slower * known.token_s,
                    request_s=slower * (known.request_s + known.http_s),
                    budget_tokens=engine.info.tuning.batch_tokens,
                    seed=seed,
                )
                for seed in range(SEEDS)
            ]
            row, held = [], True
            for part in (0.5, 0.99):
                measured, expected = np.quantile(real, part), np.mean([np.quantile(run, part) for run in runs])
                row += [f"{1000 * measured:.0f}", f"{1000 * expected:.0f}"]
                held &= abs(expected / measured - 1) <= 0.2
            row.append("held" if held else "NOT HELD")
            print(f"| {share:.0%} | {rate:.1f} | {' | '.join(row)} | {busy:.2f} |", flush=True)


def _others_s() -> float:
    """CPU time of what is not ours: with it on the same cores the comparison says little."""
    return harness.busy_seconds() - harness.cpu_seconds(os.getpid())
