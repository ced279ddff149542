"""The gate: refuse an artifact whose scores or rankings differ too much from the original model's.

What is not even tried on this machine, or with these settings, `runtimes.candidates` leaves out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.domain.ranking import to_scores
from webapp.domain.types import ScoreScale, Session
from webapp.engine.artifact import Golden, GoldenQuery
from webapp.engine.base import Engine, encode_pair
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.check_texts import (
    DOCUMENTS,
    INSTRUCTION,
    QUERIES,
    Progress,
    Step,
    chars_of,
    check_pairs,
    cuts_the_question,
    reference,
)
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.runtimes import Candidate

ROWS_A_BATCH = 8
TOKENS_A_BATCH = 1024
LENGTH_STEP_TOKENS = 16
"""A candidate scores pairs of similar length at once, padded as the scheduler does it."""

LARGEST_FP32_SCORE_ERROR = 1e-4
LARGEST_16_BIT_SCORE_ERROR = 2e-2

ALONE = 8
"""Pairs that are scored alone, too."""

GOLDEN_FACTOR, GOLDEN_SLACK = 2, 5e-3
"""By how much more than the measured error golden scores may be off: a service scores in other batches than the gate.

With AMX, int8 of a small model was off by 0.039 in a batch of one row of 16 tokens, and by 0.026 in those of the gate.
"""

UNBOUNDED: frozenset[ScoreScale] = frozenset({"dot", "euclidean", "manhattan"})
"""Scales without ends: their scores are judged raw, and golden scores are raw, too."""


class GateError(SetupError):
    """An artifact's scores differ too much from the original's."""


def engine_logits(
    engine: Engine, pairs: Sequence[tuple[str, str]], threads: int = 1, step: Step = lambda _pairs: None
) -> NDArray[np.float32]:
    """Return an engine's logits, scored in batches of similar lengths, shape [pairs].

    Args:
        engine: started for so many threads.
        pairs: queries and documents.
        threads: how many score at once.
        step: takes pairs that were scored.
    """
    sessions = [engine.open_session() for _ in range(threads)]
    encoded = [encode_pair(sessions[0], query, document) for query, document in pairs]
    batches: list[list[int]] = [[]]
    longest = 0
    for place in sorted(range(len(pairs)), key=lambda place: -encoded[place][2]):
        if len(batches[-1]) == ROWS_A_BATCH or (len(batches[-1]) + 1) * longest > TOKENS_A_BATCH or not longest:
            batches.append([])
            longest = encoded[place][2]
        batches[-1].append(place)
    scores = np.empty(len(pairs), np.float32)

    def score(session: Session, places: list[int]) -> None:
        rows = [encoded[place] for place in places]
        # Padding must not matter, so there is some.
        length = max(tokens for *_, tokens in rows) // LENGTH_STEP_TOKENS * LENGTH_STEP_TOKENS + LENGTH_STEP_TOKENS
        scores[places] = session.score([(query, ids) for query, ids, _ in rows], length)
        step([pairs[place] for place in places])

    todo = iter([batch for batch in batches if batch])
    for session, batch in zip(sessions, todo, strict=False):
        score(session, batch)  # one after the other: see `pool.EnginePool.start`
    taking = threading.Lock()

    def work(session: Session) -> None:
        while True:
            with taking:
                batch = next(todo, None)
            if batch is None:
                return
            score(session, batch)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, sessions))
    return scores


def measure(
    engine: Engine,
    original: SourceModel,
    judged: Sequence[tuple[str, list[str]]],
    threads: int = 1,
    report_share: ReportShare = lambda _share: None,
) -> dict[str, float]:
    """Compare the scores and the rankings that a client would see with the original's.

    Args:
        engine: of the artifact, started.
        original: gives the right scores.
        judged: queries with the documents to rank, none of them seen in calibration.
        threads: how many the engine was started for.
        report_share: takes the share that is done.

    Returns:
        `pairs`; `max_score_error` and `mean_score_error`, as shares of `score_range`; `score_range`, how far the
        original's raw scores are apart where their scale has no ends, else 1; `company_error`, how far at most
        a pair's score alone is from its score among others, as such a share; `kendall_tau` (-1..1) and
        `top10_overlap` (0..1), both averaged over the judged queries.
    """
    session = engine.open_session()
    asked = [check_pairs(original), *([(query, document) for document in documents] for query, documents in judged)]
    groups = [[pair for pair in group if not cuts_the_question(session, original, pair)] for group in asked]
    pairs = [pair for group in groups for pair in group]
    progress = Progress(pairs, 2, report_share)
    all_theirs = reference(original, pairs, progress.step)
    all_ours = engine_logits(engine, pairs, threads, progress.step)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    scores = list(zip(np.split(all_ours, ends), np.split(all_theirs, ends), strict=True))
    beside = _shortest_and_longest(pairs)
    score_range = _score_range(all_theirs, original)
    errors = _errors(
        np.concatenate([all_ours, _in_one_batch(session, [pairs[place] for place in beside])]),
        np.concatenate([all_theirs, all_theirs[beside]]),
        original,
        score_range,
    )
    few = list(range(0, len(pairs), -(-len(pairs) // ALONE)))
    alone = np.concatenate([_in_one_batch(session, [pairs[place]]) for place in few])
    taus, overlaps = [], []
    for ours, theirs in scores[1:]:
        tau = float(kendalltau(ours, theirs).statistic)
        taus.append(0.0 if np.isnan(tau) else tau)  # scores that are all the same rank nothing
        overlaps.append(len(set(np.argsort(-ours)[:10]) & set(np.argsort(-theirs)[:10])) / max(1, min(10, len(ours))))
    return {
        "pairs": float(len(errors)),
        "max_score_error": float(errors.max()),
        "mean_score_error": float(errors.mean()),
        "score_range": score_range,
        "company_error": float(_errors(alone, all_ours[few], original, score_range).max()),
        "kendall_tau": float(np.mean(taus)),
        "top10_overlap": float(np.mean(overlaps)),
    }


def _shortest_and_longest(pairs: Sequence[tuple[str, str]]) -> list[int]:
    """Return the places of two pairs that are as unlike in length as can be. PURE."""
    chars = [chars_of([pair]) for pair in pairs]
    return [int(np.argmin(chars)), int(np.argmax(chars))]


def _in_one_batch(session: Session, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
    """Return raw scores of pairs that pad each other: a runtime may let padding count."""
    rows = [encode_pair(session, query, document) for query, document in pairs]
    return session.score([(query, ids) for query, ids, _ in rows], max(tokens for *_, tokens in rows))


def _score_range(theirs: NDArray[np.float32], original: SourceModel) -> float:
    """Return what errors are shares of: how far the original's raw scores are apart, or 1 where their scale has ends.

    A scale without ends is not compared by its map to 0..1: far from 0 all scores look alike there, and another
    similarity would pass.
    """
    return float(theirs.max() - theirs.min()) if original.score_scale in UNBOUNDED else 1.0


def _errors(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], original: SourceModel, score_range: float
) -> NDArray[np.float64]:
    """Return how far raw scores are from others, as shares of a score range."""
    scale = original.score_scale
    if scale == "sigmoid":
        temperature = original.temperature
        one, other = (to_scores(raw, scale, raw=False, temperature=temperature) for raw in (ours, theirs))
        return np.abs(one - other)
    differences: NDArray[np.float64] = np.abs(ours.astype(np.float64) - theirs)
    if scale == "cosine":
        return differences / 2.0  # what a client sees of it; not cut at the ends, where a dot product would hide
    with np.errstate(invalid="ignore", divide="ignore"):
        return differences / score_range  # NaN, and so refused, where the original says the same of all


def golden(original: SourceModel, figures: dict[str, float]) -> Golden:
    """Return the original's scores of the check pairs, and how far from them the judged artifact may be."""
    scale = original.score_scale
    raw = scale in UNBOUNDED
    recipe = original.recipe
    # Named, so that a service with another default gives the same scores.
    instruction = (recipe.instruction or INSTRUCTION) if recipe and recipe.takes_instructions else ""
    texts = [document for document in DOCUMENTS if document.strip()]  # the API refuses blank ones in some formats
    groups = []
    for query in QUERIES:
        logits = original.reference([(query, text) for text in texts], instruction)
        scores = to_scores(logits, scale, raw=raw, temperature=original.temperature)
        groups.append(GoldenQuery(query, texts, scores.tolist()))
    tolerance = (GOLDEN_FACTOR * figures["max_score_error"] + GOLDEN_SLACK) * figures["score_range"]
    return Golden(raw=raw, tolerance=tolerance, queries=groups, instruction=instruction)


def accept(figures: dict[str, float], candidate: Candidate, settings: Settings) -> None:
    """Refuse an artifact whose scores differ too much from the original's, by the limits of its precision.

    Raises:
        GateError: with the figures that failed. NaN fails too.
    """
    highest, lowest = [("max_score_error", LARGEST_FP32_SCORE_ERROR)], []
    if candidate.precision != "fp32":
        largest = settings.gate_max_score_error
        if candidate.precision in ("fp16", "bf16"):
            largest = min(LARGEST_16_BIT_SCORE_ERROR, largest)
        highest = [("max_score_error", largest), ("mean_score_error", settings.gate_mean_score_error)]
        lowest = [("kendall_tau", settings.gate_min_tau), ("top10_overlap", settings.gate_min_top10_overlap)]
    failed = [f"{name} {figures[name]:.2g} (at most {most:g})" for name, most in highest if not figures[name] <= most]
    failed += [
        f"{name} {figures[name]:.2g} (at least {least:g})" for name, least in lowest if not figures[name] >= least
    ]
    if failed:
        raise GateError(f"{candidate} differs too much from sentence-transformers' own scores: {', '.join(failed)}")
