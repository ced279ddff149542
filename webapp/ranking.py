"""From logits to ordered results. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from webapp.types import ScoreScale


def to_scores(logits: NDArray[np.float32], scale: ScoreScale, *, raw: bool) -> NDArray[np.float64]:
    """Turn model outputs into what the client sees.

    Args:
        logits: shape [documents]; logits of a cross-encoder, cosines of a bi-encoder.
        scale: "sigmoid" gives 1 / (1 + exp(-x)), "cosine" gives (1 + x) / 2: both end in 0..1.
        raw: return the model's numbers unchanged.

    Returns:
        Shape [documents], float64, so that the sigmoid keeps distinct logits distinct up to about 36.
    """
    values = logits.astype(np.float64)
    if raw:
        return values
    if scale == "cosine":
        return np.clip((1.0 + values) / 2.0, 0.0, 1.0)
    return np.exp(-np.logaddexp(0.0, -values))  # the sigmoid, without an exp that could overflow


def rank(logits: NDArray[np.float32], top_n: int | None) -> NDArray[np.intp]:
    """Indexes of the best documents, descending by logit, ties by lower index.

    Logits are sorted rather than scores: the sigmoid flattens large logits to the same score.

    Args:
        logits: shape [documents], finite.
        top_n: how many to return; None, or more than there are, means all.
    """
    return np.argsort(-logits, kind="stable")[:top_n]
