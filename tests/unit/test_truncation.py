import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.domain.errors import InvalidRequestError
from webapp.domain.types import RerankRequest, Scored, Truncation
from webapp.engine.runtimes.stub import StubTexts
from webapp.service.truncation import Truncator, collapse

LIMIT = 21
"""Tokens of a pair; the stub's has one special token, and four characters are a token."""


class BothInOne(StubTexts):
    """Query and document share the length, as in a cross-encoder."""

    query_takes_room = True


class Prompted(StubTexts):
    """A bi-encoder that puts three tokens before a query, and five before a document."""

    def query_tokens(self, query, _instruction=""):
        return 3 + super().query_tokens(query)

    def document_tokens(self, document):
        return 5 + super().document_tokens(document)


class LeftCut(StubTexts):
    """The engine itself cuts the start of a text off."""

    keeps = "end"


def fitted(documents, query="quer", texts=None, max_windows=1000, **wish):
    request = RerankRequest(query=query, documents=documents, originals=documents, truncation=Truncation(**wish))
    return Truncator(texts or StubTexts(), LIMIT).truncate(request, max_windows)


def words(count, start=0):
    """`count` tokens of four characters, all different."""
    return "".join(f"{number:04d}" for number in range(start, start + count))


@pytest.mark.parametrize(
    "wish",
    [{}, {"max_document_tokens": 4096}, {"max_pair_tokens": LIMIT}, {"strict": True}, {"overlap_tokens": 3}],
)
def test_what_the_engine_does_by_itself_is_left_to_it(wish):
    assert fitted([words(100)], **wish) is None


def test_a_document_is_cut_at_its_own_limit_and_the_query_left_alone():
    result = fitted([words(10), words(3)], max_document_tokens=4)
    assert list(result.request.documents) == [words(4), words(3)]
    assert result.request.query == "quer"
    assert result.cut.tolist() == [True, False]


def test_left_truncation_keeps_the_end():
    assert list(fitted([words(10)], max_document_tokens=4, keep="end").request.documents) == [words(4, 6)]
    assert list(fitted([words(30)], keep="end").request.documents) == [words(20, 10)]


def test_a_model_that_keeps_the_end_is_left_to_itself_unless_the_start_is_wanted():
    assert fitted([words(30)], texts=LeftCut()) is None
    assert fitted([words(30)], texts=LeftCut(), keep="end") is None
    assert list(fitted([words(30)], texts=LeftCut(), keep="start").request.documents) == [words(20)]


def test_a_limit_without_a_side_keeps_what_the_model_keeps():
    assert list(fitted([words(10)], texts=LeftCut(), max_document_tokens=4).request.documents) == [words(4, 6)]
    assert list(fitted([words(10)], max_document_tokens=4).request.documents) == [words(4)]


def test_prompts_take_room_of_the_texts_that_they_stand_before():
    result = fitted([words(30)], query=words(40), texts=Prompted(), keep="end")
    assert list(result.request.documents) == [words(15, 15)]
    assert result.request.query == words(17, 23)


def test_windows_have_room_for_the_prompt_before_each():
    result = fitted([words(40)], texts=Prompted(), windows=10, overlap_tokens=0)
    assert list(result.request.documents) == [words(15), words(15, 15), words(15, 25)]
    assert not result.cut.any()


def test_a_limit_below_the_prompt_is_refused_with_the_least():
    with pytest.raises(InvalidRequestError, match="must be at least 7, for the model's own words take 6 tokens"):
        fitted([words(30)], texts=Prompted(), max_pair_tokens=6)
    assert list(fitted([words(30)], texts=Prompted(), max_pair_tokens=7).request.documents) == [words(1)]


def test_a_pair_limit_leaves_the_document_what_the_query_does_not_take():
    result = fitted([words(30)], query=words(3), texts=BothInOne(), max_pair_tokens=11)
    assert list(result.request.documents) == [words(7)]
    assert result.request.query == words(3)


def test_a_long_query_gives_way_down_to_half():
    result = fitted([words(30)], query=words(40), texts=BothInOne(), max_pair_tokens=11)
    assert (result.request.query, list(result.request.documents)) == (words(5), [words(5)])
    short = fitted([words(2)], query=words(40), texts=BothInOne(), max_pair_tokens=11)
    assert (short.request.query, list(short.request.documents)) == (words(8), [words(2)])


def test_a_query_has_a_limit_of_its_own():
    assert fitted(["x"], query=words(9), max_query_tokens=2).request.query == words(2)


def test_windows_overlap_and_cover_a_long_document():
    result = fitted([words(5), words(50), words(5)], windows=10)
    assert result.starts.tolist() == [0, 1, 4]
    assert list(result.request.documents)[1:4] == [words(20), words(20, 18), words(20, 30)]
    assert not result.cut.any()


def test_overlap_is_the_callers_choice():
    windows = fitted([words(50)], windows=10, overlap_tokens=5).request.documents
    assert list(windows) == [words(20), words(20, 15), words(20, 30)]


def test_more_text_than_windows_is_cut_and_said():
    result = fitted([words(50)], windows=2)
    assert len(result.request.documents) == 2
    assert result.cut.tolist() == [True]


@pytest.mark.parametrize("texts", [StubTexts(), LeftCut()], ids=["asked for", "the model's own"])
def test_windows_of_a_text_whose_end_is_kept_end_there(texts):
    result = fitted([words(60)], texts=texts, windows=2, keep="end" if texts.keeps == "start" else None)
    assert list(result.request.documents) == [words(20, 22), words(20, 40)]
    assert result.cut.tolist() == [True]


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_document_that_does_not_fit_beside_its_query_is_said_to_be_cut(keep):
    result = fitted([words(18), words(3)], query=words(8), texts=BothInOne(), max_query_tokens=20, keep=keep)
    assert result.cut.tolist() == [True, False]
    assert fitted([words(10)], max_pair_tokens=5, keep=keep).cut.tolist() == [True]


@pytest.mark.parametrize(
    ("wish", "where"),
    [
        ({"keep": "end"}, r"documents\[1\]"),
        ({"windows": 2}, r"documents\[1\]"),
        ({"max_document_tokens": 20, "max_query_tokens": 2}, "nowhere"),
        ({"max_query_tokens": 2}, r"documents\[1\]"),
        ({"max_document_tokens": 3}, "query"),
        ({"max_document_tokens": 3, "max_query_tokens": 20}, "nowhere"),
        ({"max_document_tokens": 3, "max_query_tokens": 21}, "query"),
    ],
)
def test_what_may_not_be_cut_is_cut_by_the_requests_own_limits_alone(wish, where):
    def cut():
        query = words(3 if "keep" in wish or "windows" in wish else 40)
        return fitted([words(4), words(100)], query=query, strict=True, **wish)

    if where == "nowhere":
        assert cut().cut.tolist() == [wish["max_document_tokens"] < 4, True]
    else:
        with pytest.raises(InvalidRequestError, match="the request forbids to cut it") as refused:
            cut()
        assert re.fullmatch(where, refused.value.field)


def test_too_many_windows_are_refused():
    with pytest.raises(InvalidRequestError, match="more than 5 windows") as caught:
        fitted([words(50)] * 3, windows=10, max_windows=5)
    assert caught.value.field == "max_chunks_per_doc"


def test_the_best_window_counts_and_is_told():
    result = fitted([words(5), words(50)], windows=10)
    scored = Scored(
        logits=np.array([1, 0, 3, 2], np.float32), truncated=np.array([False, False, True, False]), tokens=9, cached=0
    )
    collapsed, spans = collapse(scored, result)
    assert collapsed.logits.tolist() == [1, 3]
    assert spans == [None, (4 * 18, 4 * 38)]
    assert collapsed.truncated.tolist() == [False, False]
    assert collapsed.tokens == 9


@pytest.mark.parametrize(("keep", "kept"), [("start", slice(16)), ("end", slice(-16, None))], ids=["start", "end"])
def test_a_huge_text_is_tokenised_only_as_far_as_it_may_count(keep, kept):
    class Counting(StubTexts):
        longest = 0

        def offsets(self, text):
            self.longest = max(self.longest, len(text))
            return super().offsets(text)

    texts = Counting()
    huge = words(9999) * 100
    assert list(fitted([huge], texts=texts, max_document_tokens=4, keep=keep).request.documents) == [huge[kept]]
    assert texts.longest < 2000


@given(
    st.lists(st.text(max_size=300), min_size=1, max_size=5),
    st.text(max_size=120),
    st.builds(
        Truncation,
        max_query_tokens=st.none() | st.integers(1, 40),
        max_document_tokens=st.none() | st.integers(1, 40),
        max_pair_tokens=st.none() | st.integers(1, 40),
        windows=st.integers(1, 4),
        overlap_tokens=st.none() | st.integers(0, 50),
        keep=st.sampled_from(["start", "end", None]),
    ),
    st.sampled_from([StubTexts(), BothInOne(), LeftCut(), Prompted()]),
)
def test_every_window_is_a_part_of_its_document_and_fits(documents, query, wish, texts):
    try:
        result = fitted(documents, query, texts, **dataclasses.asdict(wish))
    except InvalidRequestError:
        assert isinstance(texts, Prompted)
        assert wish.max_pair_tokens < 7
        return
    if result is None:
        return
    room = min(LIMIT, wish.max_pair_tokens or LIMIT) - texts.special_tokens
    used = len(texts.offsets(result.request.query)) if texts.query_takes_room else 0
    stops = [*result.starts[1:].tolist(), len(result.spans)]
    for document, start, stop, cut in zip(documents, result.starts.tolist(), stops, result.cut.tolist(), strict=True):
        whole = (result.spans[start][0], result.spans[stop - 1][1]) == (0, len(document))
        assert whole or cut
        assert 1 <= stop - start <= wish.windows
        for window, span in zip(result.request.documents[start:stop], result.spans[start:stop], strict=True):
            assert window == document[slice(*span)]
            assert len(texts.offsets(window)) <= max(1, room - used)
            if isinstance(texts, Prompted):
                assert texts.document_tokens(window) <= room
                assert texts.query_tokens(result.request.query) <= room


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_text_of_which_a_part_is_never_read_is_cut(monkeypatch, keep):
    class Words(StubTexts):
        """A token is a letter; all else is none."""

        def offsets(self, text):
            places = np.flatnonzero(np.frombuffer(text.encode(), np.uint8) != ord(" "))
            return np.stack([places, places + 1], axis=1).astype(np.int32)

    monkeypatch.setattr("webapp.engine.base.MOST_CHARS", 10_000)
    texts = ["ab" + " " * 30_000 + "yz", "ab" + " " * 30_000, " " * 30_000 + "yz", "ab"]
    result = fitted(texts, texts=Words(), max_document_tokens=4, keep=keep)
    read = [document.split() for document in result.request.documents]
    start = keep == "start"
    assert result.cut.tolist() == [True, not start, start, False]
    assert read[0] == (["ab"] if start else ["yz"])
    assert read[3] == ["ab"]
