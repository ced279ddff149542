"""What the simulation is asked: policies, overload and retries, caches, a release, and how many machines carry what."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import scaling_plots
import service_times
from queueing import Absence, Fleet, Floats, Outcome, Policy, Requests, Retrying, poisson, simulate, zipf_keys
from reranking_client import Retries

CORES = 2
"""Cores of a machine, as of the one that was measured; its threads share each request."""

WORDS_TOKENS = 70
"""Tokens of a document of about 60 words with its query."""

MIX = ((10, 0.7), (50, 0.3))
"""Documents of a request, and which share of the requests has so many."""

POLICIES: tuple[Policy, ...] = ("random", "power-of-two", "least-ongoing")

TIMEOUT_S = 5.0

HIT = 0.05
"""Share of the work that is left of a request whose pairs are all remembered."""

P99_TO_MEAN = 5
"""Longest time that is acceptable at p99, as a multiple of a request's mean time."""

REQUESTS = 60_000
"""Requests in a run: enough for a stable p99."""


class Machines:
    """Requests of the mix, for machines of the measured kind."""

    def __init__(self, known: service_times.ServiceTimes) -> None:
        self.sizes_s = [known.seconds(count * WORDS_TOKENS) * known.beside / CORES for count, _ in MIX]
        self.shares = [share for _, share in MIX]
        self.mean_s = float(np.dot(self.sizes_s, self.shares))
        self.documents = float(np.dot([count for count, _ in MIX], self.shares))
        """Documents of a request, on average."""
        self.refusal_s = known.request_s / CORES

    def requests(self, at_s: Floats, seed: int = 0, keys: np.ndarray | None = None) -> Requests:
        return Requests(at_s, np.random.default_rng(seed).choice(self.sizes_s, len(at_s), p=self.shares), keys)

    def steady(self, machines: int, utilisation: float, requests: int = REQUESTS, seed: int = 1) -> Requests:
        rate = utilisation * machines / self.mean_s
        return self.requests(poisson(rate, requests / rate, seed), seed)


def tables() -> None:
    """Print the tables of docs/performance.md and draw its plots into docs/images/."""
    known = service_times.read()
    machines = Machines(known)
    print(f"service times: {known.provenance['machine']}, measured {known.provenance['measured']}")
    print(f"a request of the mix takes a machine of {CORES} cores {1000 * machines.mean_s:.0f} ms\n")
    policies(machines)
    overload(machines)
    caches(machines)
    release(machines)
    capacity(known, machines)


def policies(machines: Machines) -> None:
    loads = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
    lines: dict[tuple[int, Policy], list[float]] = {}
    print("| machines | policy | " + " | ".join(f"p99 ms at {load:.0%}" for load in loads) + " |")
    print("|---|---|" + "---|" * len(loads))
    for count in (2, 10, 100):
        for policy in POLICIES:
            lines[count, policy] = [
                1000 * simulate(machines.steady(count, load), Fleet(count, policy)).quantile_s(0.99) for load in loads
            ]
            print(f"| {count} | {policy} | " + " | ".join(f"{p99:.0f}" for p99 in lines[count, policy]) + " |")
    scaling_plots.policies(loads, lines)


RETRIES = {
    "no retries": Retrying(),
    "retries, no budget": Retrying(Retries().delays_s),
    "retries, budget": Retrying(Retries().delays_s, share=0.2, burst=100),
}
"""The client's own policy; callers by the hundred, each with what a client keeps at most, would burst tenfold."""


def overload(machines: Machines) -> None:
    """Ten machines at 70 %, for half a minute at 200 %, then at 70 % again."""
    count, spike, ends_s = 10, (60.0, 90.0), 480.0
    one_s = machines.mean_s / count
    more = poisson(1.3 / one_s, spike[1] - spike[0], 2)
    at_s = np.sort(np.concatenate([poisson(0.7 / one_s, ends_s, 1), spike[0] + more]))
    spans = ((0, 60), (60, 90), (90, 150), (150, 390), (390, ends_s))
    print(f"\nCallers wait {TIMEOUT_S:g} s a try. Answered:\n")
    print("| service | callers | before | during | 60 s after | 4 min after that | then | tries a call |")
    print("|---|---|---|---|---|---|---|---|")
    lines = {}
    for service in ("sheds", "queues all"):
        for name, retrying in RETRIES.items():
            fleet = Fleet(count, timeout_s=TIMEOUT_S, sheds=service == "sheds", refusal_s=machines.refusal_s)
            outcome = simulate(machines.requests(at_s), fleet, retrying)
            shown = " | ".join(f"{_answered(outcome, at_s, *span):.1%}" for span in spans)
            print(f"| {service} | {name} | {shown} | {outcome.tries / len(at_s):.2f} |")
            lines[service, name] = [_answered(outcome, at_s, *span) for span in pairwise(np.arange(0, ends_s + 1, 5))]
    scaling_plots.overload(lines, spike)


def caches(machines: Machines) -> None:
    """Show what it costs that each machine caches its own requests, which come again by Zipf's law."""
    different, remembered = 50_000, 5_000
    print("\n| machines | hits, own caches | hits, one cache for all | documents/s to those of one cache |")
    print("|---|---|---|---|")
    for count in (1, 10, 100):
        at_s = poisson(0.3 * count / machines.mean_s, max(REQUESTS, 4_000 * count) * machines.mean_s / 0.3 / count, 1)
        keys = zipf_keys(len(at_s), different, 2)
        asked = machines.requests(at_s, keys=keys)
        own = simulate(asked, Fleet(count, cached=remembered, hit=HIT))
        # One cache for all machines is that of one machine which is as fast as all of them.
        one = Requests(at_s, asked.work_s / count, keys)
        shared = simulate(one, Fleet(1, cached=remembered * count, hit=HIT))
        later = len(at_s) // 2  # warm by then
        rates = [float(each.hit[later:].mean()) for each in (own, shared)]
        works = [1 - (1 - HIT) * rate for rate in rates]
        print(f"| {count} | {rates[0]:.0%} | {rates[1]:.0%} | {works[1] / works[0]:.0%} |")


def release(machines: Machines) -> None:
    """Ten machines with warm caches at 70 %; each goes away and comes back cold, one or several at a time."""
    count, away_s, between_s, begins_s = 10, 10.0, 20.0, 300.0
    different, remembered = 5_000, 2_000
    warm = 0.82  # the hits that this gives, so that the load is what it says
    rate = 0.7 * count / machines.mean_s / (1 - (1 - HIT) * warm)
    print("\n| machines away at a time | p99 ms before | until all were back | refused | hits before | until back |")
    print("|---|---|---|---|---|---|")
    lines = {}
    for together in (1, 2, 5):
        ends_s = begins_s + count / together * (away_s + between_s)
        at_s = poisson(rate, ends_s + 60, 1)
        starts = [begins_s + machine // together * (away_s + between_s) for machine in range(count)]
        absences = tuple(Absence(machine, at, at + away_s) for machine, at in enumerate(starts))
        asked = machines.requests(at_s, keys=zipf_keys(len(at_s), different, 2))
        fleet = Fleet(
            count,
            timeout_s=TIMEOUT_S,
            refusal_s=machines.refusal_s,
            cached=remembered,
            hit=HIT,
            absences=absences,
        )
        outcome = simulate(asked, fleet)
        spans = ((begins_s - 60, begins_s), (begins_s, ends_s))
        p99 = [f"{1000 * _quantile(outcome, at_s, *span, 0.99):.0f}" for span in spans]
        hits = [f"{outcome.hit[_between(at_s, *span)].mean():.0%}" for span in spans]
        refused = f"{1 - _answered(outcome, at_s, *spans[1]):.2%}"
        print(f"| {together} | {p99[0]} | {p99[1]} | {refused} | {hits[0]} | {hits[1]} |")
        edges = np.arange(begins_s - 30, ends_s + 60, 5)
        lines[together] = (
            edges[:-1] - begins_s,
            [1000 * _quantile(outcome, at_s, *span, 0.99) for span in pairwise(edges)],
        )
    scaling_plots.release(lines)


def capacity(known: service_times.ServiceTimes, machines: Machines) -> None:
    """Show the highest load whose p99 is within `P99_TO_MEAN` times a request's mean time, in documents, too."""
    within_s = P99_TO_MEAN * machines.mean_s
    print(f"\none core, alone: {50 / known.seconds(50 * WORDS_TOKENS):.0f} documents/s")
    print(f"one core of a balancer: {1 / known.balancer_s:,.0f} requests of 50 documents a second")
    print(
        f"\np99 within {1000 * within_s:.0f} ms:\n\n| machines | cores | documents/s, all busy | load | documents/s |"
    )
    print("|---|---|---|---|---|")
    for count in (1, 2, 10, 100, 1000):
        full = machines.documents * count / machines.mean_s
        low, high = 0.05, 1.0
        while high - low > 0.01:
            load = (low + high) / 2
            p99_s = simulate(machines.steady(count, load, max(REQUESTS, 100 * count)), Fleet(count)).quantile_s(0.99)
            low, high = (load, high) if p99_s <= within_s else (low, load)
        print(f"| {count} | {count * CORES} | {full:,.0f} | {low:.0%} | {low * full:,.0f} |")


def _between(at_s: Floats, begins_s: float, ends_s: float) -> np.ndarray:
    return (at_s >= begins_s) & (at_s < ends_s)


def _answered(outcome: Outcome, at_s: Floats, begins_s: float, ends_s: float) -> float:
    """Share of the requests that came between."""
    return float(np.mean(~np.isnan(outcome.latency_s[_between(at_s, begins_s, ends_s)])))


def _quantile(outcome: Outcome, at_s: Floats, begins_s: float, ends_s: float, share: float) -> float:
    latencies = outcome.latency_s[_between(at_s, begins_s, ends_s)]
    return float(np.nanquantile(latencies, share)) if len(latencies) else math.nan
