"""Similarities of vectors have the same bits on every processor: numbers are added from the first to the last."""

import functools
import math
import operator

import numpy as np
import pytest

from webapp.engine.models.embedding import SIMILARITIES

LEFT, RIGHT = (np.random.default_rng(seed).standard_normal((40, 384)).astype(np.float32) for seed in (1, 2))

SIMILARITY_OF = {"euclidean": lambda total: -math.sqrt(total), "manhattan": operator.neg}

TERMS = {
    "cosine": operator.mul,
    "dot": operator.mul,
    "euclidean": lambda x, y: float(np.float32(x) - np.float32(y)) ** 2,
    "manhattan": lambda x, y: abs(float(np.float32(x) - np.float32(y))),
}


@pytest.mark.parametrize("name", SIMILARITIES)
def test_terms_are_added_in_their_order_whatever_the_registers_hold(name):
    found = SIMILARITIES[name](LEFT, RIGHT)
    for similarity, x, y in zip(found.tolist(), LEFT.tolist(), RIGHT.tolist(), strict=True):
        total = functools.reduce(operator.add, map(TERMS[name], x, y))
        assert similarity == SIMILARITY_OF.get(name, float)(total)
