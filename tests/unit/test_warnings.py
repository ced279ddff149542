"""What of a request was not honoured: said in the reply, or in a header."""

import dataclasses

import captured
import numpy as np
import pytest
from asking import QUERY, TEXTS, ask, post
from hypothesis import given
from hypothesis import strategies as st

from webapp.api.dialects import dashscope, typos, zeroentropy
from webapp.api.dialects.base import Call
from webapp.api.dialects.documents import DocumentsBody
from webapp.api.dialects.registry import dialect_of
from webapp.api.routes.rerank import add_warnings
from webapp.domain.types import RerankRequest, Scored
from webapp.engine.runtimes.stub import StubTexts
from webapp.engine.tokenizer import split_room
from webapp.servers.local import local_reranker
from webapp.service.truncation import Truncator

LONG = "milk " * 500
"""More than the stub reads."""

FORMS = {
    "native": ("/rerank", {"query": QUERY, "documents": [{"content": "a"}]}),
    "documents": ("/v1/rerank", {"query": QUERY, "documents": ["a"]}),
    "v2": ("/v2/rerank", {"query": QUERY, "documents": ["a"]}),
    "voyage": ("/v1/rerank", {"query": QUERY, "documents": ["a"], "truncation": True}),
    "infinity": ("/infinity/rerank", {"query": QUERY, "documents": ["a"]}),
    "tei": ("/rerank", {"query": QUERY, "texts": ["a"]}),
    "predict": ("/predict", {"inputs": [[QUERY, "a"]]}),
    "nim": ("/v1/ranking", {"query": QUERY, "passages": ["a"]}),
    "mixedbread": ("/v1/reranking", {"query": QUERY, "input": ["a"]}),
    "score": ("/score", {"text_1": QUERY, "text_2": "a"}),
    "librechat": ("/v1/rerank", {"query": QUERY, "candidates": [{"text": "a"}]}),
    "pinecone": ("/rerank", {"query": QUERY, "documents": [{"text": "a"}]}),
    "weaviate": ("/rerank", {"query": QUERY, "documents": ["a"], "property": ""}),
    "dashscope": (dashscope.PATH, {"input": {"query": QUERY, "documents": ["a"]}}),
    "dashscope, newer": (dashscope.COMPATIBLE_PATH, {"query": QUERY, "documents": ["a"]}),
    "zeroentropy": (zeroentropy.PATH, {"query": QUERY, "documents": ["a"]}),
}
HEADERS = {"pinecone": {"X-Pinecone-Api-Version": "2025-10"}}


def asked(client, form, **fields):
    path, body = FORMS[form]
    reply = post(client, path, {**body, **fields}, headers=HEADERS.get(form))
    assert reply.status_code == 200, reply.text
    return reply


def said(reply):
    return reply.headers.getlist("X-Rerank-Warning")


@pytest.mark.parametrize("form", FORMS)
def test_a_mistyped_field_is_said_in_a_header_of_every_format(client, form):
    (warning,) = said(asked(client, form, truncatoin_side="left"))
    assert warning == "'truncatoin_side' was ignored: there is no such field; did you mean 'truncation_side'?"
    assert said(asked(client, form)) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_field_that_is_nothing_like_a_known_one_is_ignored_without_a_word(client, form):
    assert said(asked(client, form, user="me", request_id="r", chat_template_kwargs={}, kwargs="{}")) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("topk", "top_k"),
        ("top-n", "top_n"),
        ("TOP_N", "top_n"),
        ("raw_score", "raw_scores"),
        ("retrun_documents", "return_documents"),
        ("rank_field", "rank_fields"),
        ("maxTokensPerDoc", "max_tokens_per_doc"),
        ("modle", "model"),
    ],
)
def test_a_field_within_two_edits_of_a_known_one_is_warned_of(client, name, meant):
    (warning,) = ask(client, **{name: 1})["meta"]["warnings"]
    assert repr(name) in warning
    assert repr(meant) in warning


def test_a_name_that_another_format_knows_is_warned_of_where_it_has_no_effect(client):
    assert "did you mean 'top_k'?" in asked(client, "native", top_n=2).json["warnings"][0]
    assert "did you mean 'top_n'?" in said(asked(client, "tei", top_k=2))[0]


def test_a_batch_warns_in_the_answer_to_each_of_its_requests_and_once_in_the_header(client):
    body = {"query": "q", "documents": ["a"]}
    reply = post(client, "/rerank/batch", [{**body, "topk": 1}, body, {**body, "topk": 2}])
    assert [len(answer.get("warnings", ())) for answer in reply.json] == [1, 0, 1]
    assert len(said(reply)) == 1


def test_tokenize_warns_too(client):
    assert "add_special_tokens" in said(post(client, "/tokenize", {"inputs": "a", "add_special_token": False}))[0]


def test_warnings_are_bounded_whatever_is_sent(client):
    names = {f"to{letter}_k": 1 for letter in "abcdefghijklmno"} | {f"raw_scores{n}": 1 for n in range(10, 99)}
    reply = ask(client, **names, rank_fields=["x" * 1000] * 50)
    assert len(reply["meta"]["warnings"]) <= 25
    reply = post(client, "/v1/rerank", {"query": QUERY, "documents": TEXTS, **names, "rank_fields": ["é" * 999] * 9})
    assert 1 <= len(said(reply)) <= 8
    assert sum(map(len, said(reply))) <= 1600


def test_a_header_is_printable_ascii_without_a_broken_escape(client):
    reply = ask(client, rank_fields=["naïve\r\nX: y", "💡" * 100])
    assert "naïve" in reply["meta"]["warnings"][0]
    response = client.application.make_response("")
    add_warnings(response, ["100% naïve\r\nSet-Cookie: x", "💡" * 100])
    plain, cut = said(response)
    assert plain == "100%25 na%C3%AFve%0D%0ASet-Cookie: x"
    assert len(cut) <= 200
    assert cut.count("%") * 3 == len(cut)


@pytest.mark.skipif(not captured.load(), reason="../shared/data/captured-requests is not here")
@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent, _ in captured.load()])
def test_a_real_client_s_request_gets_no_warning(sent):
    call = Call(sent["path"], captured.headers(sent), captured.raw_body(sent))
    dialect = dialect_of(call)
    assert typos.IgnoredFields().warn(call.fields.keys(), dialect.body) == ()
    for each in dialect.parse(call):
        assert [warning for warning in each.warnings if "instruction" not in warning] == []


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edits_count_alike_in_both_directions_and_never_more_than_the_longer_name(one, other):
    distance = typos.edits(one, other)
    assert distance == typos.edits(other, one)
    assert (distance == 0) == (one == other)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))


def test_no_known_field_is_longer_than_what_is_looked_at():
    assert max(map(len, DocumentsBody.__struct_fields__)) + typos.MOST_EDITS <= typos.LONGEST


# --- rank_fields


@pytest.mark.parametrize("form", ["documents", "v2", "voyage", "infinity", "mixedbread", "pinecone"])
def test_rank_fields_that_no_document_has_are_said(client, form):
    (warning,) = said(asked(client, form, rank_fields=["title", "text"]))
    assert warning == "rank_fields was ignored where no document has the field: 'title'"
    assert said(asked(client, form, rank_fields=["text"])) == []


def test_rank_fields_that_some_document_has_are_no_matter_of_a_warning(client):
    documents = [{"text": "a"}, {"text": "b", "title": "t"}, {"text": "c", "body": None}]
    assert "warnings" not in ask(client, documents=documents, rank_fields=["title"])["meta"]
    assert "'body'" in ask(client, documents=documents, rank_fields=["body", "title"])["meta"]["warnings"][0]


# --- top_n


@pytest.mark.parametrize("form", ["documents", "v2", "voyage", "infinity"])
@pytest.mark.parametrize("name", ["top_n", "top_k"])
def test_minus_one_is_all_in_the_documents_family_and_other_negatives_are_refused(client, form, name):
    path, body = FORMS[form]
    body = {**body, "documents": TEXTS}
    assert len(post(client, path, {**body, name: -1}).json["results"]) == 3
    assert post(client, path, {**body, name: -2}).status_code == 400


@pytest.mark.parametrize(
    ("form", "name"), [("native", "top_k"), ("tei", "top_n"), ("nim", "top_k"), ("mixedbread", "top_k")]
)
def test_minus_one_is_refused_by_other_formats(client, form, name):
    path, body = FORMS[form]
    assert post(client, path, {**body, name: -1}).status_code in {400, 422}


# --- a query that is cut


@pytest.mark.parametrize("form", [form for form in FORMS if form not in {"score", "predict", "dashscope"}])
def test_a_query_that_is_cut_is_said_in_every_format(client, form):
    (warning,) = said(asked(client, form, query=LONG))
    assert warning == "the query was longer than what is read of it and was cut"
    assert "milk" not in warning


def test_a_query_that_is_cut_is_said_where_a_format_has_a_place(client):
    assert "query" in asked(client, "native", query=LONG).json["warnings"][0]
    assert "query" in asked(client, "documents", query=LONG).json["meta"]["warnings"][0]
    assert "query" in said(asked(client, "score", text_1=LONG))[0]
    assert "query" in said(asked(client, "predict", inputs=[[LONG, "a"]]))[0]
    assert "query" in said(asked(client, "dashscope", input={"query": LONG, "documents": ["a"]}))[0]
    assert "query" in asked(client, "documents", max_tokens_per_query=1).json["meta"]["warnings"][0]


def test_a_query_that_may_not_be_cut_is_refused(client):
    reply = post(client, "/v1/rerank", {"query": LONG, "documents": ["a"], "truncate": False})
    assert reply.status_code == 400
    assert reply.json["detail"].startswith("query: must have at most 512 tokens, it has")


@pytest.mark.parametrize(
    "beside",
    [
        {"truncation_direction": "left"},
        {"truncation_side": "right"},
        {"max_chunks_per_doc": 2},
        {"max_tokens_per_doc": 600},
        {"max_tokens_per_query": 2},
    ],
)
def test_a_document_that_may_not_be_cut_is_refused_whatever_is_asked_beside(client, beside):
    body = {"query": "milk", "documents": ["a", 2 * LONG], **beside}
    assert post(client, "/v1/rerank", body).status_code == 200
    reply = post(client, "/v1/rerank", {**body, "truncate": "NONE"})
    assert reply.status_code == 400
    assert reply.json["detail"].startswith("documents[1]: must have at most 512 tokens, ")
    assert post(client, "/v1/rerank", {**body, "documents": ["a"], "truncate": "NONE"}).status_code == 200


def test_usage_counts_the_query_of_a_model_that_reads_it_by_itself(client):
    def tokens(query):
        return ask(client, query=query)["usage"]["total_tokens"]

    assert tokens("milk" * 10) - tokens("milk") == 9
    assert tokens("milk" * 5000) - tokens("milk") == 510, "no more than is read"


class BothInOne(StubTexts):
    """Query and document share the length, as in a cross-encoder."""

    query_takes_room = True


@given(st.integers(0, 30), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(2, 21))
def test_what_is_said_to_be_cut_is_what_truncation_cuts(query, documents, limit):
    texts = BothInOne()
    room = limit - texts.special_tokens
    kept = [split_room(query, tokens, room) for tokens in documents]
    pair_cut = np.array([query + tokens > room for tokens in documents])
    scored = Scored(np.zeros(len(documents), np.float32), pair_cut, tokens=0, cached=0)
    request = RerankRequest("q" * 4 * query, ["d" * 4 * tokens for tokens in documents], [])
    read = Truncator(texts, limit).query_read(request, scored)
    assert read.tokens == 0
    assert read.cut == any(left < query for left, _ in kept)
    if read.cut:
        cut = Truncator(texts, limit).documents_cut(request, scored, range(len(documents)))
        assert cut == [left < tokens for (_, left), tokens in zip(kept, documents, strict=True)]


def test_a_short_document_beside_a_query_that_is_cut_is_not_called_cut(service, client):
    service.texts = BothInOne()
    service.scoring.finish = cut_all(service.scoring.finish)
    answer = asked(client, "native", query=LONG, documents=[{"content": "short"}, {"content": LONG}]).json
    assert {result["index"]: result.get("truncated", False) for result in answer["results"]} == {0: False, 1: True}
    assert len(answer["warnings"]) == 2


def cut_all(finish):
    """A cross-encoder cuts pairs whose query is too long."""

    def finished(*arguments):
        scored = finish(*arguments)
        return dataclasses.replace(scored, truncated=np.ones_like(scored.truncated))

    return finished


def test_warnings_are_the_same_in_the_body_and_in_the_header(client):
    reply = asked(client, "documents", query=LONG, documents=[LONG], topk=1, instruction="x", rank_fields=["y"])
    assert reply.json["meta"]["warnings"] == said(reply)
    assert len(said(reply)) == 5


def test_a_cross_encoder_says_of_a_pair_which_text_was_cut(bert_settings):
    def cut(query, *documents):
        result = local.rerank(RerankRequest(query=query, documents=documents, originals=documents))
        return result.query_cut, [
            truncated for _, truncated in sorted(zip(result.order, result.truncated, strict=True))
        ]

    long = "milk " * 2000
    with local_reranker(bert_settings) as local:
        assert cut("bees", "milk", long) == (False, [False, True])
        assert cut(long, "milk", long) == (True, [False, True])
        assert cut("bees", "milk", "") == (False, [False, False])


def test_unknown_fields_of_one_call_are_looked_at_so_far_however_many_requests_it_holds(client, monkeypatch):
    looked_at = []
    monkeypatch.setattr(typos, "nearest", lambda name, *_: looked_at.append(name))
    items = [{"query": QUERY, "documents": ["a"], **{f"n{item}x{each}": 1 for each in range(5)}} for item in range(50)]
    assert post(client, "/rerank/batch", items).status_code == 200
    assert looked_at == [f"n{item}x{each}" for item in range(4) for each in range(5)]
