"""The gate: refuse an artifact whose scores or rankings differ too much from the original model's.

What is not even tried on this machine, or with these settings, `runtimes.candidates` leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.domain.ranking import to_scores
from webapp.domain.types import ScoreScale, Session
from webapp.engine.artifact import Golden, GoldenQuery
from webapp.engine.base import Engine, encode_pair, score_pair
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.runtimes import Candidate

LARGEST_RAW_ERROR = 1e-4
"""Of our own way to frame, cut and batch texts, in float32: a share of the larger of 1 and the largest raw score."""

ROWS_A_BATCH = 8

LARGEST_FP32_SCORE_ERROR = 1e-4
LARGEST_BF16_SCORE_ERROR = 2e-2

GOLDEN_SLACK = 5e-3
"""Added to the measured error: a service scores in other batches than the gate."""

UNBOUNDED: frozenset[ScoreScale] = frozenset({"dot", "euclidean", "manhattan"})
"""Scales without ends: their scores are judged raw, and golden scores are raw, too."""


MANY_CHARS = 200
"""No pair of so few characters is cut by a model."""

INSTRUCTION = "Given a question about animals, find the text that answers it"
"""What a model that takes an instruction is judged with, too; and golden pairs, where it has no default."""


class GateError(SetupError):
    """An artifact's scores differ too much from the original's."""


_QUERIES = (
    "how do bees find their way back to the hive",
    "Wie lange darf Milch offen im Kühlschrank stehen?",
    "最も近い駅はどこですか",
)
_DOCUMENTS = (
    "Bees remember landmarks and the angle of the sun.",
    "Offene Milch hält sich gekühlt etwa drei Tage; riecht sie sauer, gehört sie weggegossen.",
    "駅は郵便局の角を曲がってすぐです。歩いて五分ほどかかります。",
    "A hive's scouts dance: the straight run points to the flowers, its length tells how far they are.",
    "",
    "   \t\n ",
    "🐝🍯 naïve café — ﬁne print №5 \u202eabc\u202c",
    "x" * 300,
    "The invoice was paid on the fourth of May. " * 12,
    "Dit document gaat nergens over, maar het is wel lang. " * 60,
    "القطار الأخير يغادر المحطة عند منتصف الليل تمامًا.",
    "0.5 mg/l < c(NO3-) <= 50 mg/l; see table 4.2(b), p. 117",
)


def check_pairs(original: SourceModel) -> list[tuple[str, str]]:
    """Return pairs of short, long, cut, blank and odd texts, and of one query that is too long itself.

    Without the last for a decoder: its vendor cuts the document off whole, or the words after it. We don't.
    """
    pairs = [(query, document) for query in _QUERIES for document in _DOCUMENTS]
    if original.recipe is not None:
        return pairs
    endless = "which of these words matters " * 150
    return [*pairs, (endless, _DOCUMENTS[0]), (endless, _DOCUMENTS[9])]


def engine_logits(engine: Engine, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
    """Return an engine's logits, one pair a batch, shape [pairs]. The engine was started."""
    session = engine.open_session()
    # Padding must not matter.
    return np.array([score_pair(session, query, document, padding=3) for query, document in pairs], np.float32)


def check_framing(engine: Engine, original: SourceModel) -> None:
    """Refuse a model whose scores by our own template, tokenizer and batches differ from the original's.

    Both sides compute in float32 with the same weights. So only what we make of the texts can differ, which the looser
    limits of int8 would hide.

    Args:
        engine: of the original in torch, started.
        original: gives the right scores, by sentence-transformers' own way from texts to scores.

    Raises:
        SetupError: it says where they differ.
    """
    session = engine.open_session()
    pairs = [pair for pair in check_pairs(original) if not _cuts_the_question(session, original, pair)]
    right, limit = _check_alone(session, original, pairs)
    if original.recipe is not None and original.recipe.takes_instructions:
        few = [(query, document) for query in _QUERIES for document in _DOCUMENTS[:3]]
        _check_alone(session, original, few, INSTRUCTION)
    together = _batched(session, pairs)
    if not (np.abs(together - right) <= limit).all():
        worst = float(np.abs(together - right).max())
        raise SetupError(
            f"{original.layout.directory}: scores depend on what else is in a batch, by up to {worst:.2g};"
            " the likely cause: the model does not heed its attention mask"
        )


def _check_alone(
    session: Session, original: SourceModel, pairs: Sequence[tuple[str, str]], instruction: str = ""
) -> tuple[NDArray[np.float32], float]:
    """Compare scores of pairs, one a batch, with the original's; return these, and the largest error to accept.

    Raises:
        SetupError: they differ.
    """
    right = original.reference(pairs, instruction)
    limit = LARGEST_RAW_ERROR * max(1.0, float(np.abs(right).max()))
    scores = [score_pair(session, query, document, instruction=instruction) for query, document in pairs]
    alone = np.array(scores, np.float32)
    wrong = ~(np.abs(alone - right) <= limit)  # NaN is wrong, too
    if wrong.any():
        bad = [pair for pair, is_wrong in zip(pairs, wrong, strict=True) if is_wrong]
        short = any(document.strip() and len(query + document) < MANY_CHARS for query, document in bad)
        cause = "texts are framed in another way" if short else "long or blank texts are cut or framed in another way"
        cause = "an instruction is framed in another way" if instruction else cause
        raise SetupError(
            f"{original.layout.directory}: {len(bad)} of {len(pairs)} scores are not the original's, by up to"
            f" {float(np.abs(alone - right).max()):.2g}; the likely cause: {cause}"
        )
    return right, limit


def _cuts_the_question(session: Session, original: SourceModel, pair: tuple[str, str]) -> bool:
    """Return whether the original cuts off the end of a query that comes after a long document; we cut the document."""
    if original.recipe is None or not original.recipe.document_first:
        return False
    _, _, truncated = session.encode_documents(session.encode_query(pair[0]), [pair[1]])
    return bool(truncated[0])


def _batched(session: Session, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
    """Return raw scores made in batches of unlike lengths."""
    encoded = [encode_pair(session, query, document) for query, document in pairs]
    scores: list[NDArray[np.float32]] = []
    for at in range(0, len(encoded), ROWS_A_BATCH):
        rows = encoded[at : at + ROWS_A_BATCH]
        scores.append(session.score([(query, ids) for query, ids, _ in rows], max(tokens for *_, tokens in rows)))
    return np.concatenate(scores)


def measure(
    engine: Engine,
    original: SourceModel,
    judged: Sequence[tuple[str, list[str]]],
    report_share: ReportShare = lambda _share: None,
) -> dict[str, float]:
    """Compare the scores and the rankings that a client would see with the original's.

    Args:
        engine: of the artifact, started.
        original: gives the right scores.
        judged: queries with the documents to rank, none of them seen in calibration.
        report_share: takes the share that is done.

    Returns:
        `pairs`; `max_score_error` and `mean_score_error`, as shares of `score_range`; `score_range`, how far the
        original's raw scores are apart where their scale has no ends, else 1; `kendall_tau` (-1..1) and `top10_overlap`
        (0..1), both averaged over the judged queries.
    """
    groups = [check_pairs(original), *([(query, document) for document in documents] for query, documents in judged)]
    total, done, scores = sum(map(len, groups)), 0, []
    for pairs in groups:
        scores.append((engine_logits(engine, pairs), original.reference(pairs)))
        done += len(pairs)
        report_share(done / total)
    all_ours, all_theirs = (np.concatenate(column) for column in zip(*scores, strict=True))
    errors, score_range = _errors(all_ours, all_theirs, original)
    taus, overlaps = [], []
    for (ours, theirs), (_, documents) in zip(scores[1:], judged, strict=True):
        tau = float(kendalltau(ours, theirs).statistic)
        taus.append(0.0 if np.isnan(tau) else tau)  # scores that are all the same rank nothing
        overlaps.append(len(set(np.argsort(-ours)[:10]) & set(np.argsort(-theirs)[:10])) / min(10, len(documents)))
    return {
        "pairs": float(len(errors)),
        "max_score_error": float(errors.max()),
        "mean_score_error": float(errors.mean()),
        "score_range": score_range,
        "kendall_tau": float(np.mean(taus)),
        "top10_overlap": float(np.mean(overlaps)),
    }


def _errors(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], original: SourceModel
) -> tuple[NDArray[np.float64], float]:
    """Return how far raw scores are from the original's, as shares of a score range, and that range.

    A scale without ends is not compared by its map to 0..1: far from 0 all scores look alike there, and another
    similarity would pass. The range of the original's scores is the measure then.
    """
    scale = original.score_scale
    if scale == "sigmoid":
        temperature = original.temperature
        one, other = (to_scores(raw, scale, raw=False, temperature=temperature) for raw in (ours, theirs))
        return np.abs(one - other), 1.0
    differences = np.abs(ours.astype(np.float64) - theirs)
    if scale == "cosine":
        return differences / 2.0, 1.0  # what a client sees of it; not cut at the ends, where a dot product would hide
    score_range = float(theirs.max() - theirs.min())
    with np.errstate(invalid="ignore", divide="ignore"):
        return differences / score_range, score_range  # NaN, and so refused, where the original says the same of all


def golden(original: SourceModel, figures: dict[str, float]) -> Golden:
    """Return the original's scores of the check pairs, and how far from them the judged artifact may be."""
    scale = original.score_scale
    raw = scale in UNBOUNDED
    recipe = original.recipe
    # Named, so that a service with another default gives the same scores.
    instruction = (recipe.instruction or INSTRUCTION) if recipe and recipe.takes_instructions else ""
    texts = [document for document in _DOCUMENTS if document.strip()]  # the API refuses blank ones in some formats
    groups = []
    for query in _QUERIES:
        logits = original.reference([(query, text) for text in texts], instruction)
        scores = to_scores(logits, scale, raw=raw, temperature=original.temperature)
        groups.append(GoldenQuery(query, texts, scores.tolist()))
    tolerance = (figures["max_score_error"] + GOLDEN_SLACK) * figures["score_range"]
    return Golden(raw=raw, tolerance=tolerance, queries=groups, instruction=instruction)


def accept(figures: dict[str, float], candidate: Candidate, settings: Settings) -> None:
    """Refuse an artifact whose scores differ too much from the original's, by the limits of its precision.

    Raises:
        GateError: with the figures that failed. NaN fails too.
    """
    highest, lowest = [("max_score_error", LARGEST_FP32_SCORE_ERROR)], []
    if candidate.precision != "fp32":
        largest = settings.gate_max_score_error
        if candidate.precision == "bf16":
            largest = min(LARGEST_BF16_SCORE_ERROR, largest)
        highest = [("max_score_error", largest), ("mean_score_error", settings.gate_mean_score_error)]
        lowest = [("kendall_tau", settings.gate_min_tau), ("top10_overlap", settings.gate_min_top10_overlap)]
    failed = [f"{name} {figures[name]:.2g} (at most {most:g})" for name, most in highest if not figures[name] <= most]
    failed += [
        f"{name} {figures[name]:.2g} (at least {least:g})" for name, least in lowest if not figures[name] >= least
    ]
    if failed:
        raise GateError(f"{candidate} differs too much from sentence-transformers' own scores: {', '.join(failed)}")
