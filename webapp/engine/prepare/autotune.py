"""Measure how fast an engine is here, and with which batches, for some seconds.

Speed is tokens for the processor time that was used, not for the time on the clock: other programs make the latter
several times longer, but hardly change what a batch costs. So the same machine gives the same figures, busy or idle.
On a card it is tokens for the time on the clock: nothing else computes there.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from webapp.domain.types import Session, Tuning
from webapp.engine.artifact import Manifest
from webapp.engine.base import encode_pair
from webapp.engine.loader import open_engine
from webapp.engine.prepare.progress import ReportShare

BUDGETS_TOKENS = (256, 512, 1024)
"""Token budgets to try. Behind a larger one small requests wait longer, and a smaller one holds too few rows."""

NATIVE_BUDGET_TOKENS = 192
"""The budget of an encoder on the native engine, which works on small ones in groups of 256 tokens at most
(native/transformer.h) and pads nothing. A batch of 256 would be no faster, and hold small requests up for longer."""

CARD_BUDGETS_TOKENS = (16_384, 32_768, 65_536)
"""Token budgets to try on a card."""

MIN_SPEEDUP = 1.05
"""A larger budget must be this much faster: the smaller one answers small requests sooner."""

LENGTH_STEP_TOKENS = 16
"""The scheduler gives rows multiples of this."""

MEASURED_S = 0.3
ROUNDS = 3
"""The first round compiles for new shapes, and the best one counts: other programs only slow us down."""

ENOUGH_S = 15.0
"""No round begins after this: a batch of a big model takes seconds, beside which a compilation counts little."""

PAIRS = 192

CARD_REPEATS = 4
"""Each pair is scored so often at once on a card, whose batches hold more than `PAIRS`."""

READERS_SHARE = 0.7
"""What tokenising on all cores at once makes of the speed of one core times their number: they share memory."""

Encoded = tuple[Any, Any, int]
"""Query, token ids of a document, tokens of the pair."""

Batch = tuple[list[tuple[Any, Any]], int, int]
"""Pairs, length they are padded to, tokens without padding."""


@dataclass(frozen=True, slots=True)
class Speed:
    """The result of one measurement."""

    tokens_per_s: float
    """All threads together, padding not counted, if each had a core for itself."""
    share: float
    """Processor time that it got, as a share of one core a thread."""


class Bench:
    """An artifact's engine, opened to be measured with the first `PAIRS` pairs."""

    def __init__(self, directory: Path, manifest: Manifest, threads: int, pairs: Sequence[tuple[str, str]]) -> None:
        """Open an engine with a session a thread."""
        engine = open_engine(directory, manifest)
        engine.start(threads)
        self._sessions = [engine.open_session() for _ in range(threads)]
        self._padded = engine.padded
        self.most_batches = engine.most_batches
        """Batches that it computes at once; 0: one in each thread, on the processor."""
        began = time.perf_counter()
        self._encoded = encode(self._sessions[0], pairs[:PAIRS])
        tokens = sum(tokens for *_, tokens in self._encoded)
        self.read_tokens_per_s = tokens / (time.perf_counter() - began)
        """Tokens that one thread makes of texts."""
        if self.most_batches:
            self._encoded = [pair for pair in self._encoded for _ in range(CARD_REPEATS)]

    def measure(self, budget_tokens: int, batches_at_once: int = 0) -> Speed:
        """Score for `MEASURED_S` seconds in batches within the budget, with all sessions at once or with so many."""
        made = batches(self._encoded, budget_tokens, padded=self._padded)
        return measure(self._sessions[: batches_at_once or None], made, by_clock=bool(self.most_batches))


def tune(
    directory: Path,
    manifest: Manifest,
    pairs: Sequence[tuple[str, str]],
    report_share: ReportShare = lambda _share: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Tuning:
    """Return the smallest token budget that is about as fast as any, and its thread count, both measured.

    Args:
        directory: of the artifact.
        manifest: its manifest.
        pairs: texts of ordinary lengths.
        report_share: takes the share that is done.
        clock: seconds.
    """
    best = Tuning()
    budgets: tuple[int, ...] = BUDGETS_TOKENS
    if manifest.engine == "native" and manifest.recipe is None:
        budgets = (NATIVE_BUDGET_TOKENS,)
    counts = thread_counts()
    measured = itertools.count(1)
    for threads in counts:
        bench = Bench(directory, manifest, threads, pairs)
        if bench.most_batches:
            return tune_card(bench, threads, report_share)
        rates = dict.fromkeys(budgets, 0.0)
        began = clock()
        for _ in range(ROUNDS):
            for budget in budgets:
                rates[budget] = max(rates[budget], bench.measure(budget).tokens_per_s)
                report_share(next(measured) / (len(counts) * ROUNDS * len(budgets)))
            if clock() - began > ENOUGH_S:
                break
        for budget, rate in rates.items():
            if rate > best.tokens_per_s * MIN_SPEEDUP:
                best = Tuning(batch_tokens=budget, engine_threads=threads, tokens_per_s=round(rate))
    return best


def tune_card(bench: Bench, threads: int, report_share: ReportShare) -> Tuning:
    """Return the smallest budget, and the fewest batches at once, that are about as fast as any on a card.

    Args:
        bench: of the engine.
        threads: that tokenise; no more tokens are scored than they read.
        report_share: takes the share that is done.
    """
    best = Tuning()
    tried = [(at_once, budget) for at_once in range(1, bench.most_batches + 1) for budget in CARD_BUDGETS_TOKENS]
    for number, (at_once, budget) in enumerate(tried, 1):
        rate = max(bench.measure(budget, at_once).tokens_per_s for _ in range(ROUNDS))
        if rate > best.tokens_per_s * MIN_SPEEDUP:
            best = Tuning(batch_tokens=budget, batches_at_once=at_once, tokens_per_s=round(rate))
        report_share(number / len(tried))
    read_tokens_per_s = bench.read_tokens_per_s * threads * READERS_SHARE
    return dataclasses.replace(best, tokens_per_s=round(min(best.tokens_per_s, read_tokens_per_s)))


def thread_counts() -> list[int]:
    """Return the thread counts to try: one a logical core and, with hyperthreading, one a physical core."""
    allowed = os.sched_getaffinity(0)
    siblings = set()
    for core in allowed:
        try:
            siblings.add(Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(core))
    return sorted({len(allowed), len(siblings)}, reverse=True)


def measure(sessions: Sequence[Session], batches: Sequence[Batch], *, by_clock: bool = False) -> Speed:
    """Measure all sessions at once, each on a thread of its own.

    Args:
        sessions: of one engine.
        batches: what they score.
        by_clock: count the time on the clock, for what is computed on a card.
    """
    for session in sessions:
        session.score(*batches[0][:2])  # one after the other: see `pool.EnginePool.start`
    began, used_before_s = time.perf_counter(), time.process_time()
    orders = [_shuffled(batches, seed) for seed in range(len(sessions))]
    with ThreadPoolExecutor(len(sessions)) as threads:
        done = list(threads.map(partial(_score_until, began + MEASURED_S), sessions, orders))
    tokens, cores_s = sum(scored for scored, _ in done), sum(took_s for _, took_s in done)
    if by_clock:
        return Speed(tokens / (time.perf_counter() - began), 1.0)
    used_s = time.process_time() - used_before_s
    return Speed(tokens / used_s * len(sessions), used_s / cores_s)


def _shuffled(batches: Sequence[Batch], seed: int) -> list[Batch]:
    """Return the batches in another order for each thread, so that those which time leaves out differ."""
    return random.Random(seed).sample(list(batches), len(batches))  # noqa: S311 - the same every time


def _score_until(ends: float, session: Session, batches: Sequence[Batch]) -> tuple[int, float]:
    """Score these batches in turn until the time is over; return the number of tokens, and seconds by the clock."""
    scored, began = 0, time.perf_counter()
    for pairs, length, tokens in itertools.cycle(batches):
        session.score(pairs, length)
        scored += tokens
        if time.perf_counter() > ends:
            break
    return scored, time.perf_counter() - began


def encode(session: Session, pairs: Sequence[tuple[str, str]]) -> list[Encoded]:
    """Return (query, token ids, tokens of the pair), longest first."""
    encoded = [encode_pair(session, query, document) for query, document in pairs]
    return sorted(encoded, key=lambda pair: -pair[2])


def batches(encoded: Sequence[Encoded], budget_tokens: int, *, padded: bool) -> list[Batch]:
    """Return batches as the scheduler makes them of one large request; see the laws of `scheduling.batching`.

    Args:
        encoded: as `encode` returns it.
        budget_tokens: cap on what a batch costs, unless it is a single pair.
        padded: whether the engine pads rows.
    """
    made = []
    left = list(encoded)
    while left:
        longest = _round_up(left[0][2])
        if padded:
            rows = max(1, budget_tokens // longest)
            taken, left = left[:rows], left[rows:]
        else:
            taken, left = _take_fitting(left, budget_tokens)
        made.append(([(query, ids) for query, ids, _ in taken], longest, sum(tokens for _, _, tokens in taken)))
    return made


def _take_fitting(encoded: Sequence[Encoded], room_tokens: int) -> tuple[list[Encoded], list[Encoded]]:
    """Return the first pair and those after it that still fit, in order, and all others."""
    taken: list[Encoded] = []
    others = []
    for pair in encoded:
        if taken and pair[2] > room_tokens:
            others.append(pair)
            continue
        room_tokens -= pair[2]
        taken.append(pair)
    return taken, others


def _round_up(length_tokens: int) -> int:
    return -(-length_tokens // LENGTH_STEP_TOKENS) * LENGTH_STEP_TOKENS
