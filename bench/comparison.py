"""Two real replicas and two simulated ones, asked for the same at the same instants."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import harness
import load
import numpy as np
import scheduled
import service_times
import two_replicas
from scheduled import Floats

from webapp.engine.loader import load_engine

DOCUMENTS, WORDS = 10, 30

LOADS = (0.3, 0.5, 0.7)
"""Shares of what both cores can carry, by the measured service times and the speed that the processor has now."""

HEADER = (
    "| requests/s | service ms | cores at work | real p50 ms | simulated | real p99 ms | simulated | within 20 %"
    " | cores used by others |"
)

IDLE_S = 3.0

APART, ALONE = 4, 200
"""Requests that come so many service times apart, hardly ever meeting: how much their times differ by themselves."""

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
    alone_s = known.token_s * tokens + known.request_s
    what = f"{requests} requests of {DOCUMENTS} documents, {np.mean(tokens):.0f} tokens on average"
    print(f"{harness.machine()}; {what}\n")
    with two_replicas.running(model) as (port, _):
        bodies = [load.post(harness.body("query", each)) for each in texts]
        two_replicas.replay(port, bodies[:50], np.arange(50) * alone_s.mean())  # warm
        idle = _Usage()
        time.sleep(IDLE_S)
        idle.end()
        apart_s = APART * alone_s.mean()
        slower, took_s, _ = _replayed(port, bodies[:ALONE], np.arange(ALONE) * apart_s, alone_s[:ALONE], idle)
        spread = took_s / (slower * alone_s[:ALONE])
        median, tail = np.quantile(spread, (0.5, 0.99))
        print(f"One by one, half take {median:.2f} times their CPU time or less, a hundredth {tail:.2f} or more.\n")
        print(f"{HEADER}\n{'|---' * HEADER.count(' | ')}|---|")
        for share in LOADS:
            rate = 2 * share / (slower * alone_s.mean())
            at_s = np.cumsum(np.random.default_rng(int(100 * share)).exponential(1 / rate, requests))
            slower, real_s, usage = _replayed(port, bodies, at_s, alone_s, idle)
            runs = [
                scheduled.simulate(
                    at_s,
                    texts,
                    lengths,
                    replicas=2,
                    token_s=slower * known.token_s,
                    request_s=slower * known.request_s,
                    budget_tokens=engine.info.tuning.batch_tokens,
                    slowness=np.random.default_rng(seed).choice(spread, requests),
                    seed=seed,
                )
                for seed in range(SEEDS)
            ]
            row, held = [], True
            for part in (0.5, 0.99):
                measured, expected = np.quantile(real_s, part), np.mean([np.quantile(run, part) for run in runs])
                row += [f"{1000 * measured:.0f}", f"{1000 * expected:.0f}"]
                held &= abs(expected / measured - 1) <= 0.2
            row.append("held" if held else "NOT HELD")
            service = f"{rate:.1f} | {1000 * slower * alone_s.mean():.1f} | {usage.own:.2f}"
            print(f"| {service} | {' | '.join(row)} | {usage.others:.2f} |", flush=True)


def _replayed(
    port: int, bodies: Sequence[bytes], at_s: Floats, alone_s: Floats, idle: _Usage
) -> tuple[float, Floats, _Usage]:
    """How many times `alone_s` the CPU time was, as a virtual machine's speed changes by the minute; what each took."""
    usage = _Usage()
    took_s = np.array(two_replicas.replay(port, bodies, at_s.tolist()))
    usage.end()
    return (usage.own_s - idle.own * usage.seconds) / alone_s.sum(), took_s, usage


class _Usage:
    """CPU time from now until `end`: of us and all that we started, and of everybody else."""

    def __init__(self) -> None:
        self._began = self._now()

    def end(self) -> None:
        """Take stock."""
        self.seconds, self.own_s, busy_s = np.array(self._now()) - np.array(self._began)
        self.own = self.own_s / self.seconds
        self.others = (busy_s - self.own_s) / self.seconds

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.perf_counter(), harness.cpu_seconds(os.getpid()), harness.busy_seconds()
