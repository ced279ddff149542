"""Replicas behind a balancer, as a discrete-event simulation. No clock but its own, no input or output.

A replica works on one request at a time, first come, first served: one engine thread, or a machine whose threads share
each request. All it does not know is in docs/performance.md.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from reranking_client import Budget

Policy = Literal["random", "round-robin", "least-ongoing", "power-of-two"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Requests:
    """What callers want; arrays of one length."""

    at_s: Floats
    """When each comes, in order."""
    work_s: Floats
    """Seconds of one replica."""
    keys: NDArray[np.int64] | None = None
    """What is asked; a replica that was asked the same before has it in its cache. None: all differ."""


@dataclass(frozen=True)
class Absence:
    """A replica gets nothing new between two instants, finishes what it has, and comes back with a cold cache."""

    replica: int
    from_s: float
    until_s: float


@dataclass(frozen=True)
class Fleet:
    """Replicas that answer, and how."""

    replicas: int
    policy: Policy = "power-of-two"
    timeout_s: float = math.inf
    """A caller waits that long for each try."""
    sheds: bool = True
    """Refuse what would be late; else it is worked on although nobody waits for it any more."""
    refusal_s: float = 0.0
    """What a refusal costs a replica."""
    cached: int = 0
    """Keys that a replica remembers, the last used ones."""
    hit: float = 0.0
    """Share of the work that a remembered key still costs."""
    absences: tuple[Absence, ...] = ()


@dataclass(frozen=True)
class Retrying:
    """What callers do when a try fails."""

    delays_s: tuple[float, ...] = ()
    """Longest wait before each further try; a random share of it is taken."""
    share: float = math.inf
    """Retries that a call earns, all callers together; infinite: no budget."""
    burst: float = math.inf


@dataclass
class Outcome:
    """What came of it."""

    latency_s: Floats
    """Seconds of each request, from its first try; nan: it was not answered."""
    tries: int = 0
    refused: int = 0
    """Tries."""
    hit: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """Whether the last try of each request was a cache hit."""
    busy_s: Floats = field(default_factory=lambda: np.zeros(0))
    """Work that each replica did."""

    def quantile_s(self, share: float) -> float:
        """Latency that this share of the answered requests did not exceed."""
        return float(np.nanquantile(self.latency_s, share))

    @property
    def answered(self) -> float:
        """Share of the requests."""
        return float(np.mean(~np.isnan(self.latency_s)))


def poisson(rate: float, seconds: float, seed: int) -> Floats:
    """Instants of independent requests, `rate` a second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(rate * seconds * 1.2) + 100)
    at = np.cumsum(gaps)
    return at[at < seconds]


def zipf_keys(count: int, different: int, seed: int, exponent: float = 1.0) -> NDArray[np.int64]:
    """Keys 0..different, the k-th most popular asked in proportion to k^-exponent."""
    weights = np.arange(1, different + 1, dtype=float) ** -exponent
    return np.random.default_rng(seed).choice(different, count, p=weights / weights.sum())


def simulate(requests: Requests, fleet: Fleet, retrying: Retrying | None = None, seed: int = 0) -> Outcome:
    """Run all requests through the fleet."""
    return _Run(requests, fleet, retrying or Retrying(), seed).run()


_TRY, _DONE, _GONE, _BACK, _LATE = range(5)


class _Run:
    def __init__(self, requests: Requests, fleet: Fleet, retrying: Retrying, seed: int) -> None:
        self._fleet = fleet
        self._retrying = retrying
        self._random = random.Random(seed)
        self._at: list[float] = requests.at_s.tolist()
        self._work: list[float] = requests.work_s.tolist()
        self._keys: list[int] = requests.keys.tolist() if requests.keys is not None and fleet.cached else []
        self._free = [0.0] * fleet.replicas
        self._ongoing = np.zeros(fleet.replicas)
        """Infinite for replicas that are away; `_away` keeps their work."""
        self._away: dict[int, float] = {}
        self._present = list(range(fleet.replicas))
        self._turn = 0
        self._caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(fleet.replicas)]
        self._budget = Budget(retrying.share, retrying.burst)
        self._events: list[tuple[float, int, int, Any]] = []
        self._count = 0
        self.outcome = Outcome(
            np.full(len(self._at), np.nan), hit=np.zeros(len(self._at), dtype=bool), busy_s=np.zeros(fleet.replicas)
        )

    def run(self) -> Outcome:
        for absence in self._fleet.absences:
            self._push(absence.from_s, _GONE, absence.replica)
            self._push(absence.until_s, _BACK, absence.replica)
        upcoming = 0
        while self._events or upcoming < len(self._at):
            if upcoming < len(self._at) and (not self._events or self._at[upcoming] <= self._events[0][0]):
                self._budget.earn()
                self._try(self._at[upcoming], upcoming, 0)
                upcoming += 1
                continue
            now, _, kind, what = heapq.heappop(self._events)
            if kind == _TRY:
                self._try(now, *what)
            elif kind == _DONE:
                self._finish(now, *what)
            elif kind == _LATE:
                self._failed(now, *what)
            elif kind == _GONE:
                self._present.remove(what)
                self._away[what] = self._ongoing[what]
                self._ongoing[what] = np.inf
            else:
                self._present.append(what)
                self._ongoing[what] = self._away.pop(what)
                self._caches[what].clear()
        return self.outcome

    def _push(self, at: float, kind: int, what: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, kind, what))

    def _try(self, now: float, request: int, tried: int) -> None:
        self.outcome.tries += 1
        replica = self._choose()
        if replica < 0:
            self._failed(now, request, tried)
            return
        began = max(now, self._free[replica])
        work = self._work[request] * self._cost(replica, request)
        late = began + work - now > self._fleet.timeout_s
        if late and self._fleet.sheds:
            self.outcome.refused += 1
            self._free[replica] = began + self._fleet.refusal_s
            self._failed(now, request, tried)
            return
        self._remember(replica, request)
        self._free[replica] = began + work
        self._ongoing[replica] += 1
        self.outcome.busy_s[replica] += work
        self._push(began + work, _DONE, (replica, -1 if late else request))
        if late:
            self._push(now + self._fleet.timeout_s, _LATE, (request, tried))

    def _choose(self) -> int:
        if not self._present:
            return -1
        policy = self._fleet.policy
        if policy == "random" or len(self._present) == 1:
            return self._random.choice(self._present)
        if policy == "round-robin":
            self._turn += 1
            return self._present[self._turn % len(self._present)]
        if policy == "power-of-two":
            one, other = self._random.sample(self._present, 2)
            return one if self._ongoing[one] <= self._ongoing[other] else other
        return int(self._random.choice(np.flatnonzero(self._ongoing == self._ongoing.min())))

    def _cost(self, replica: int, request: int) -> float:
        """Share of the work that is left for this replica."""
        return self._fleet.hit if self._keys and self._keys[request] in self._caches[replica] else 1.0

    def _remember(self, replica: int, request: int) -> None:
        if not self._keys:
            return
        cache, key = self._caches[replica], self._keys[request]
        self.outcome.hit[request] = key in cache
        cache[key] = None
        cache.move_to_end(key)
        if len(cache) > self._fleet.cached:
            cache.popitem(last=False)

    def _finish(self, now: float, replica: int, request: int) -> None:
        if replica in self._away:
            self._away[replica] -= 1
        else:
            self._ongoing[replica] -= 1
        if request >= 0:
            self.outcome.latency_s[request] = now - self._at[request]

    def _failed(self, now: float, request: int, tried: int) -> None:
        if tried < len(self._retrying.delays_s) and self._budget.spend():
            wait_s = self._random.random() * self._retrying.delays_s[tried]
            self._push(now + wait_s, _TRY, (request, tried + 1))
