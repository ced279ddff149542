"""Does the artifact score as the original does? Asked before it may serve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from webapp.engine.base import Engine
from webapp.engine.source_model import SourceModel
from webapp.errors import SetupError
from webapp.ranking import to_scores

LARGEST_SCORE_ERROR = {"fp32": 1e-4, "bf16": 2e-2}

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


def check_pairs() -> list[tuple[str, str]]:
    """Short, long, cut, blank and odd texts, and one query that is too long itself."""
    pairs = [(query, document) for query in _QUERIES for document in _DOCUMENTS]
    endless = "which of these words matters " * 150
    return [*pairs, (endless, _DOCUMENTS[0]), (endless, _DOCUMENTS[9])]


def engine_logits(engine: Engine, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
    """Logits of each pair by an engine that was started, shape [pairs]."""
    session = engine.open_session()
    logits = np.empty(len(pairs), np.float32)
    for place, (text, document) in enumerate(pairs):
        query = session.encode_query(text)
        ids, lengths, _ = session.encode_documents(query, [document])
        logits[place] = session.score([(query, ids[0])], int(lengths[0]) + 3)[0]  # 3: padding must not matter
    return logits


def measure(engine: Engine, source: SourceModel) -> dict[str, float]:
    """Compare the scores that a client would see.

    Returns:
        `pairs`, `max_score_error` and `mean_score_error`, the errors between 0 and 1.
    """
    pairs = check_pairs()
    scale = engine.info.score_scale
    ours = to_scores(engine_logits(engine, pairs), scale, raw=False)
    theirs = to_scores(source.reference(pairs), scale, raw=False)
    errors = np.abs(ours - theirs)
    return {
        "pairs": float(len(pairs)),
        "max_score_error": float(errors.max()),
        "mean_score_error": float(errors.mean()),
    }


def accept(fidelity: dict[str, float], precision: str) -> None:
    """Refuse an artifact whose scores differ too much.

    Raises:
        SetupError: with the figures. NaN fails too.
    """
    limit = LARGEST_SCORE_ERROR[precision]
    if not fidelity["max_score_error"] <= limit:
        raise SetupError(
            f"the {precision} model's scores differ from sentence-transformers' by up to"
            f" {fidelity['max_score_error']:.2g} (limit {limit:g}); try another RERANK_PRECISION or RERANK_ENGINE=torch"
        )
