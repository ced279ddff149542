"""Replicas with the service's own scheduler, in simulated time: for the comparison with real ones.

`queueing` works first come, first served. The scheduler fills batches from several requests and lets short ones pass,
which moves the median of requests that meet; so here it decides itself, and only the engine is simulated.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from webapp.scheduling.scheduler import Scheduler

Floats = NDArray[np.float64]


class _Cost(NamedTuple):
    """What a document costs."""

    tokens: int
    reading_s: float
    scoring_s: float


class _Replica:
    """One engine thread on one core; a `Scorer` that only says how long it takes."""

    def __init__(self, costs: Mapping[str, _Cost], *, budget_tokens: int) -> None:
        self._costs = costs
        self._now = self._took_s = 0.0
        self.ongoing = 0
        self.finished: list[int] = []
        self._scheduler = Scheduler(
            lock=nullcontext(), budget_tokens=budget_tokens, threads=1, padded=False, clock=lambda: self._now
        )

    def submit(self, now: float, number: int, documents: Sequence[str]) -> None:
        self._now = now
        self.ongoing += 1
        self._scheduler.submit("", documents, lambda: self.finished.append(number))

    def step(self, now: float) -> float:
        """Do one piece of work; returns when it will be done. `finished` are the requests that end with it."""
        self._now, self._took_s, self.finished = now, 0.0, []
        self._scheduler.step(self)
        return now + self._took_s

    def encode_query(self, query: str, _instruction: str = "") -> str:
        return query

    def encode_documents(self, _query: str, documents: Sequence[str]) -> tuple[list[Any], Any, Any]:
        costs = [self._costs[text] for text in documents]
        self._took_s += sum(cost.reading_s for cost in costs)
        return costs, np.array([cost.tokens for cost in costs], np.int32), np.zeros(len(costs), np.bool_)

    def score(self, pairs: Sequence[tuple[str, _Cost]], _length: int) -> NDArray[np.float32]:
        self._took_s += sum(cost.scoring_s for _, cost in pairs)
        return np.zeros(len(pairs), np.float32)


def simulate(
    at_s: Floats,
    requests: Sequence[Sequence[str]],
    lengths: Mapping[str, int],
    *,
    replicas: int,
    token_s: float,
    request_s: float,
    budget_tokens: int,
    slowness: Floats | None = None,
    seed: int,
) -> Floats:
    """Seconds that each request takes, behind a balancer that draws two and takes the one with fewer at work.

    Args:
        at_s: when each request comes, in order.
        requests: the documents of each; no two requests share one.
        lengths: tokens of each document, with the query.
        replicas: at least two.
        token_s: what a token costs.
        request_s: what a request costs beside its tokens.
        budget_tokens: cap of a batch.
        slowness: how many times as long as that each request takes; None: once.
        seed: of the draws.
    """
    draw = random.Random(seed)
    costs = {
        text: _Cost(lengths[text], slow * request_s / len(texts), slow * token_s * lengths[text])
        for texts, slow in zip(requests, np.ones(len(at_s)) if slowness is None else slowness, strict=True)
        for text in texts
    }
    fleet = [_Replica(costs, budget_tokens=budget_tokens) for _ in range(replicas)]
    took = np.zeros(len(at_s))
    ends: list[tuple[float, int]] = []
    upcoming = 0
    while ends or upcoming < len(at_s):
        if upcoming < len(at_s) and (not ends or at_s[upcoming] <= ends[0][0]):
            now, (one, other) = float(at_s[upcoming]), draw.sample(range(replicas), 2)
            chosen = one if fleet[one].ongoing <= fleet[other].ongoing else other
            fleet[chosen].submit(now, upcoming, requests[upcoming])
            upcoming += 1
            if fleet[chosen].ongoing > 1:
                continue  # at work: it looks when it is done
        else:
            now, chosen = heapq.heappop(ends)
            for number in fleet[chosen].finished:
                took[number] = now - at_s[number]
                fleet[chosen].ongoing -= 1
        if fleet[chosen].ongoing:
            heapq.heappush(ends, (fleet[chosen].step(now), chosen))
    return took
