"""BM25 over a request's own documents: the fallback if the model can't answer, and the operator allowed it.

Its scores count words, not meaning. They are shares of the best document's score, so 0..1, and comparable within a
request only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def lexical_scores(query: str, documents: Sequence[str]) -> NDArray[np.float32]:
    """Return scores, shape [documents]; zeros if no document shares a word with the query."""
    import bm25s  # noqa: PLC0415 - most processes never need it

    words = bm25s.tokenize([query, *documents], stopwords=None, show_progress=False, return_ids=False)
    scores = np.zeros(len(documents), np.float32)
    known = {word for document in words[1:] for word in document}
    asked = [word for word in words[0] if word in known]
    if asked:
        index = bm25s.BM25()
        index.index(words[1:], show_progress=False)
        scores = np.asarray(index.get_scores(asked), np.float32)
    best = scores.max(initial=0.0)
    return scores / best if best > 0 else scores
