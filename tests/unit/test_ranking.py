import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from webapp.ranking import rank, to_scores

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


@given(logits)
def test_sigmoid_scores_lie_in_0_to_1_and_keep_the_order(values):
    scores = to_scores(values, "sigmoid", raw=False)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores[rank(values, None)]) <= 0).all()


def test_sigmoid_does_not_overflow_at_either_end():
    with np.errstate(all="raise", under="ignore"):
        assert to_scores(np.array([-1e4, 0, 1e4], np.float32), "sigmoid", raw=False).tolist() == [0.0, 0.5, 1.0]


def test_cosine_is_mapped_to_0_to_1():
    assert to_scores(np.array([-1, 0, 1], np.float32), "cosine", raw=False).tolist() == [0.0, 0.5, 1.0]


def test_raw_scores_are_the_models_own_numbers():
    values = np.array([-3.5, 12.25], np.float32)
    assert to_scores(values, "sigmoid", raw=True).tolist() == [-3.5, 12.25]
