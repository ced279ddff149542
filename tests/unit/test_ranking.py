from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from webapp.domain.ranking import rank, to_scores
from webapp.domain.types import ScoreScale

logits = arrays(np.float32, st.integers(1, 50), elements=st.floats(-80, 80, width=32))


@given(logits)
def test_ranks_descending_with_ties_by_lower_index(values):
    order = rank(values, None)
    pairs = [(-values[index], index) for index in order]
    assert pairs == sorted(pairs)
    assert sorted(order) == list(range(len(values)))


@given(logits, st.integers(1, 100))
def test_top_n_is_a_prefix_of_the_whole_order(values, top_n):
    assert rank(values, top_n).tolist() == rank(values, None).tolist()[:top_n]


def of_scale(values, scale):
    """Numbers that a model of this scale may give: distances are negative."""
    return -np.abs(values) if scale in {"euclidean", "manhattan"} else values


@pytest.mark.parametrize("scale", get_args(ScoreScale))
@given(logits)
def test_scores_of_every_scale_lie_in_0_to_1_and_keep_the_order(scale, values):
    values = of_scale(values, scale)
    scores = to_scores(values, scale, raw=False)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores[rank(values, None)]) <= 0).all()


@pytest.mark.parametrize("scale", ["dot", "euclidean", "manhattan"])
@given(st.floats(2**-20, 1e8, width=32), st.booleans())
def test_scores_of_scales_without_ends_tell_neighbouring_numbers_apart(scale, size, negative):
    value = of_scale(np.float32(-size if negative else size), scale)
    neighbour = np.nextafter(value, np.float32(-np.inf), dtype=np.float32)
    lower, higher = to_scores(np.array([neighbour, value], np.float32), scale, raw=False)
    assert lower < higher


@pytest.mark.parametrize(
    ("scale", "values", "scores"),
    [
        ("dot", [-4, -1, 0, 1, 4], [0.1, 0.25, 0.5, 0.75, 0.9]),
        ("euclidean", [-4, -1, 0], [0.2, 0.5, 1.0]),
        ("manhattan", [-4, -1, 0], [0.2, 0.5, 1.0]),
    ],
    ids=["dot", "euclidean", "manhattan"],
)
def test_scores_of_similarities_are_the_maps_that_info_names(scale, values, scores):
    assert to_scores(np.array(values, np.float32), scale, raw=False).tolist() == scores


def test_sigmoid_does_not_overflow_at_either_end():
    with np.errstate(all="raise", under="ignore"):
        assert to_scores(np.array([-1e4, 0, 1e4], np.float32), "sigmoid", raw=False).tolist() == [0.0, 0.5, 1.0]


def test_cosine_is_mapped_to_0_to_1():
    assert to_scores(np.array([-1, 0, 1], np.float32), "cosine", raw=False).tolist() == [0.0, 0.5, 1.0]


def test_raw_scores_are_the_models_own_numbers():
    values = np.array([-3.5, 12.25], np.float32)
    assert to_scores(values, "sigmoid", raw=True).tolist() == [-3.5, 12.25]


@given(logits, st.floats(0.5, 10))
def test_a_temperature_divides_logits_keeps_their_order_and_leaves_raw_scores_alone(values, temperature):
    scores = to_scores(values, "sigmoid", raw=False, temperature=temperature)
    assert np.allclose(scores, 1 / (1 + np.exp(-values.astype(float) / temperature)))
    assert (np.diff(scores[rank(values, None)]) <= 0).all()
    assert (to_scores(values, "sigmoid", raw=True, temperature=temperature) == values).all()
