"""What rows become for the GPU: packed batches, and the sizes that they are filled up to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.engine.runtimes.gpu.batch import pack_sharing, pack_whole
from webapp.engine.runtimes.gpu.recorded import TOKENS
from webapp.engine.runtimes.gpu.sizes import Size, example_of, fill, graph_sizes


def padded(rows):
    """Ids and mask of rows, shape [rows, longest]."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return ids, mask


def seen_by(batch, number):
    """The token ids that a row attends to."""
    begin, end = batch.seen_starts[number : number + 2]
    places = np.arange(begin, end) if batch.seen is None else batch.seen[begin:end]
    return batch.ids[places].tolist()


tokens = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(st.lists(tokens, min_size=1, max_size=8))
def test_rows_lie_one_after_the_other_without_padding(rows):
    ids, mask = padded(rows)
    batch = pack_whole(ids, mask, np.zeros_like(ids))
    assert batch.ids.tolist() == [token for row in rows for token in row]
    assert batch.positions.tolist() == [place for row in rows for place in range(len(row))]
    assert np.diff(batch.starts).tolist() == [len(row) for row in rows]
    assert (batch.rows, batch.longest) == (len(rows), max(map(len, rows)))


def test_padding_of_a_model_that_counts_from_it_has_no_position():
    ids = np.array([[5, 1, 7, 1]])  # 1 is the padding's id: a text may hold its name
    batch = pack_whole(ids, np.array([[1, 1, 1, 0]]), np.zeros_like(ids), pad=1)
    assert batch.positions.tolist() == [1, 0, 2]


@given(st.lists(st.tuples(st.integers(0, 2), tokens), min_size=1, max_size=8), st.lists(tokens, min_size=3, max_size=3))
def test_each_row_attends_to_its_own_tokens_whatever_it_shares(rows, beginnings):
    whole = [[*beginnings[which], *own] for which, own in rows]
    ids, mask = padded(whole)
    types = np.ones_like(ids)
    for number, (which, _) in enumerate(rows):
        types[number, : len(beginnings[which])] = 0
    batch = pack_sharing(ids, mask, types)
    assert [seen_by(batch, number) for number in range(len(rows))] == whole
    ends = batch.starts[1 : len(rows) + 1] - 1
    assert batch.positions[ends].tolist() == [len(row) - 1 for row in whole]
    assert batch.tokens <= sum(map(len, whole))


def test_what_rows_begin_with_is_computed_once():
    rows = [[1, 2, 3, 4], [1, 2, 3, 5, 6], [7, 8]]
    ids, mask = padded(rows)
    types = np.ones_like(ids)
    types[:2, :3] = 0
    batch = pack_sharing(ids, mask, types)
    assert batch.ids.tolist() == [4, 5, 6, 7, 8, 1, 2, 3]
    assert (batch.rows, batch.beginnings, batch.longest_seen) == (3, 1, 5)


def test_a_row_that_only_begins_keeps_its_last_token_to_be_scored_by():
    rows = [[1, 2, 3], [1, 2, 3]]
    ids, mask = padded(rows)
    batch = pack_sharing(ids, mask, np.zeros_like(ids))
    assert batch.ids.tolist() == [3, 3, 1, 2]


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.booleans())
def test_a_batch_fills_a_size_with_tokens_of_no_sequence_and_empty_sequences(lengths, shares):
    rows = [[1] * 40 + [2] * length for length in lengths]
    ids, mask = padded(rows)
    types = (ids == 2).astype(np.int64)
    batch = pack_sharing(ids, mask, types) if shares else pack_whole(ids, mask, types)
    own = Size.of(batch)
    fitting = [size for size in graph_sizes(TOKENS, shares=shares) if size.holds(own)]
    if not fitting:
        return
    size = min(fitting)
    buffer = np.full(size.offsets[-1], -7, np.int32)
    fill(buffer, batch, size)
    parts = [buffer[offset : offset + count] for offset, count in zip(size.offsets, size.parts, strict=False)]
    flat, _, _, starts, seen_starts, seen = parts
    assert flat[: batch.tokens].tolist() == batch.ids.tolist()
    assert starts[: batch.rows + 1].tolist() == batch.starts[: batch.rows + 1].tolist()
    assert (np.diff(starts) >= 0).all()
    assert np.diff(starts)[batch.rows : size.rows].sum() == 0, "filled with empty sequences"
    assert starts[-1] == batch.tokens
    assert np.diff(starts)[size.rows :].tolist()[: batch.beginnings] == np.diff(batch.starts)[batch.rows :].tolist()
    if batch.seen is not None:
        assert seen[: len(batch.seen)].tolist() == batch.seen.tolist()
        assert seen_starts[batch.rows] == batch.seen_starts[batch.rows]


@pytest.mark.parametrize("shares", [True, False])
def test_what_a_size_is_recorded_with_fits_into_it(shares):
    for size in graph_sizes(TOKENS, shares=shares):
        ids, mask, types = example_of(size)
        batch = pack_sharing(ids, mask, types) if size.seen else pack_whole(ids, mask, types)
        assert size.holds(Size.of(batch)), size


def test_ordinary_batches_have_a_size_to_fill():
    sizes = graph_sizes(TOKENS, shares=False)
    for rows, length in ((1, 20), (4, 190), (50, 20), (100, 190), (1, 2000), (50, 500)):
        batch = pack_whole(*(np.ones((rows, length), np.int64),) * 2, np.zeros((rows, length), np.int64))
        assert any(size.holds(Size.of(batch)) for size in sizes), (rows, length)
