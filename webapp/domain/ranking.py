"""From logits to ordered results. PURE."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from webapp.domain.types import ScoreScale


def to_scores(
    logits: NDArray[np.float32], scale: ScoreScale, *, raw: bool, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Turn model outputs into the scores of a reply.

    Args:
        logits: shape [documents]; logits of a cross-encoder, similarities of a bi-encoder (distances are negative).
        scale: "sigmoid" gives 1 / (1 + exp(-x / temperature)), "cosine" (1 + x) / 2, "dot"
            (1 + x / (1 + |x|)) / 2, a distance d 1 / (1 + d): all of them keep the order and end in 0..1.
        raw: return the model's numbers unchanged.
        temperature: above 0; only logits are divided by it.

    Returns:
        Shape [documents], float64, so that the sigmoid keeps distinct logits distinct up to about 36.
    """
    values = logits.astype(np.float64)
    if raw:
        return values
    if scale == "sigmoid":
        return np.exp(-np.logaddexp(0.0, -values / temperature))  # without an exp that could overflow
    if scale == "cosine":
        return np.clip((1.0 + values) / 2.0, 0.0, 1.0)
    # Dot products of common models are about 100 and distances about 10: an exponential map would be 1 or 0 for all of
    # them. These fall off as 1 / x, which keeps neighbouring float32 numbers apart up to 10^8.
    closeness = 1.0 / (1.0 + np.abs(values))
    if scale == "dot":
        return np.where(values < 0, closeness / 2.0, 1.0 - closeness / 2.0)
    return closeness


def rank(logits: NDArray[np.float32], top_n: int | None) -> NDArray[np.intp]:
    """Return the indexes of the best documents, descending by logit, ties by lower index.

    Logits are sorted rather than scores: the sigmoid flattens large logits to the same score.

    Args:
        logits: shape [documents], finite.
        top_n: how many to return; None, or more than there are, means all.
    """
    return np.argsort(-logits, kind="stable")[:top_n]
