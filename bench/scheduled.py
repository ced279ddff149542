"""Replicas with the service's own scheduler, in simulated time: for the comparison with real ones.

`queueing` works first come, first served. The scheduler fills batches from several requests and lets short ones pass,
which moves the median of requests that meet; so here it decides itself, and only the engine is simulated.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.scheduling.scheduler import Scheduler

Floats = NDArray[np.float64]


class _Replica:
    """One engine thread on one core; a `Scorer` that only says how long it takes."""

    def __init__(self, lengths: Mapping[str, int], *, token_s: float, request_s: float, budget_tokens: int) -> None:
        self._lengths = lengths
        self._token_s = token_s
        self._request_s = request_s
        self._now = self._took_s = 0.0
        self.ongoing = 0
        self.finished: list[int] = []
        self._scheduler = Scheduler(lock=nullcontext(), budget_tokens=budget_tokens, threads=1, clock=lambda: self._now)

    def submit(self, now: float, number: int, documents: Sequence[str]) -> None:
        self._now = now
        self.ongoing += 1
        self._scheduler.submit("", documents, lambda: self.finished.append(number))

    def step(self, now: float) -> float:
        """Do one piece of work; returns when it will be done. `finished` are the requests that end with it."""
        self._now, self._took_s, self.finished = now, 0.0, []
        self._scheduler.step(self)
        return now + self._took_s

    def encode_query(self, query: str) -> str:
        return query

    def encode_documents(self, _query: str, documents: Sequence[str]) -> tuple[list[Any], Any, Any]:
        self._took_s += self._request_s
        lengths = np.array([self._lengths[text] for text in documents], np.int32)
        return lengths.tolist(), lengths, np.zeros(len(documents), np.bool_)

    def score(self, pairs: Sequence[tuple[str, int]], _length: int) -> NDArray[np.float32]:
        self._took_s += self._token_s * sum(tokens for _, tokens in pairs)  # the native engine pads nothing
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
    seed: int,
) -> Floats:
    """Seconds that each request takes, behind a balancer that draws two and takes the one with fewer at work.

    Args:
        at_s: when each request comes, in order.
        requests: the documents of each.
        lengths: tokens of each document, with the query.
        replicas: at least two.
        token_s: what a token costs.
        request_s: what a request costs beside its tokens.
        budget_tokens: cap of a batch.
        seed: of the draws.
    """
    draw = random.Random(seed)
    fleet = [
        _Replica(lengths, token_s=token_s, request_s=request_s, budget_tokens=budget_tokens) for _ in range(replicas)
    ]
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
