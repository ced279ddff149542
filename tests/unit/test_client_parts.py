"""How lists are split, and their answers merged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reranking_client import BadReplyError, Question, RefusedError
from reranking_client.parts import merge, plan, read
from services.faulty_server import reply_to


def answered(questions, max_documents, edit=lambda told: told):
    parts = plan(questions, max_documents)
    answers = []
    for part in parts:
        asked = json.loads(part.body())
        told = [reply_to(each) for each in asked] if isinstance(asked, list) else reply_to(asked)
        answers.append(read(part, json.dumps(edit(told)).encode(), "id"))
    return merge(parts, answers, "id")


# Few texts, so that many scores are equal.
questions = st.builds(
    Question,
    st.sampled_from(["bees", "home"]),
    st.lists(st.sampled_from(["milk", "moon", "sun", "train", "bee"]), min_size=1, max_size=12),
    st.one_of(st.none(), st.integers(1, 15)),
)


@given(st.lists(questions, max_size=6), st.integers(1, 14))
def test_parts_together_answer_as_one_request_would(asked, max_documents):
    assert all(part.documents <= max_documents for part in plan(asked, max_documents))
    assert answered(asked, max_documents) == answered(asked, 1000)


def test_small_questions_travel_together_and_large_ones_in_slices():
    small, large = Question("q", ["a"] * 3), Question("q", ["a"] * 25)
    parts = plan([small, small, large, small], 10)
    assert [(part.path, part.documents) for part in parts] == [
        ("/rerank/batch", 6),
        ("/rerank", 10),
        ("/rerank", 10),
        ("/rerank/batch", 8),
    ]


def test_no_request_holds_more_questions_than_a_service_takes():
    parts = plan([Question("q", ["a"])] * 2500, 5000)
    assert [len(part.slices) for part in parts] == [1000, 1000, 500]


def test_only_texts_are_sent_and_results_have_the_documents_metadata():
    documents = ["plain", {"content": "bees", "metadata": {"id": 7}}, {"content": "bare"}]
    (part,) = plan([Question("q", documents, top_n=2, options={"priority": 1, "top_k": 9})], 10)
    assert json.loads(part.body()) == {
        "query": "q",
        "documents": [{"content": "plain"}, {"content": "bees"}, {"content": "bare"}],
        "top_k": 2,
        "raw_scores": False,
        "return_documents": False,
        "priority": 1,
    }
    (ranking,) = answered([Question("q", documents)], 10)
    assert {each.index: (each.content, each.metadata) for each in ranking.results} == {
        0: ("plain", {}),
        1: ("bees", {"id": 7}),
        2: ("bare", {}),
    }


def test_text_that_no_encoding_holds_travels_as_an_escape():
    (part,) = plan([Question("q", ["half \ud800 a pair", "ゆき"])], 10)
    assert b"\\ud800" in part.body()
    (part,) = plan([Question("q", ["ゆき"])], 10)
    assert "ゆき".encode() in part.body()


def test_no_questions_are_no_requests_and_no_documents_are_the_services_business():
    assert plan([], 10) == []
    assert [part.documents for part in plan([Question("q", [])], 10)] == [0]


def test_a_question_that_is_refused_has_its_error_in_its_place():
    first, second, third = answered([Question("a", ["x"]), Question(" ", ["x"]), Question("c", ["x"])], 10)
    assert (first.query, third.query) == ("a", "c")
    assert isinstance(second, RefusedError)
    assert second.message == "question 1: query: must not be blank"


@pytest.mark.parametrize("documents", ["text", b"text", {"content": "x"}, ["x", 7], ["x", {"text": "y"}], [None]])
def test_what_is_no_list_of_documents_is_refused_with_its_place(documents):
    with pytest.raises(TypeError, match=r"documents(: must be a list|\[\d\]: must be a text)"):
        Question("q", documents)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"no"',
        b"{}",
        b'{"results": [{"index": 5, "score": 1}], "model": "m", "latency_ms": 1}',
        b'{"results": [{"index": 0}], "model": "m", "latency_ms": 1}',
        b'{"results": 7, "model": "m", "latency_ms": 1}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_reply_of_ours_is_no_answer(body):
    (part,) = plan([Question("q", ["x"])], 10)
    with pytest.raises(BadReplyError, match="not one of a reranking service; request id id"):
        read(part, body, "id")


def test_scores_of_different_models_are_not_mixed():
    models = iter(["bees", "bm25"])
    with pytest.raises(BadReplyError, match=r"different models \(bees, bm25\); ask again"):
        answered([Question("q", ["x", "y"])], 1, lambda told: {**told, "model": next(models)})
