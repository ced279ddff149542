"""Documents whose text is under a mistyped name are refused, rather than scored as JSON in another vendor's shape."""

import pytest
from asking import QUERY, ask, post

PLACES = {
    "documents": "/v1/rerank",
    "texts": "/rerank",
    "passages": "/v1/ranking",
    "input": "/v1/reranking",
    "candidates": "/v1/rerank",
}


def refusal(client, documents, path="/rerank", name="documents", status=400, **fields):
    reply = post(client, path, {"query": QUERY, name: documents, **fields})
    assert reply.status_code == status, reply.text
    return reply.json["detail"]


@pytest.mark.parametrize("key", ["contents", "Content", "CONTENT", "conten", "cotnent", "contnet", "context"])
def test_a_key_that_is_nearly_content_is_refused_with_what_was_meant(client, key):
    said = refusal(client, [{key: "x"}])
    assert said == f"documents[0]: has neither text nor content; did you mean 'content' instead of {key!r}?"


@pytest.mark.parametrize("key", ["texts", "Text", "txt", "tetx", "test"])
def test_a_key_that_is_nearly_text_is_refused_with_what_was_meant(client, key):
    assert f"did you mean 'text' instead of {key!r}?" in refusal(client, [{key: "x"}])


@pytest.mark.parametrize("name", PLACES)
def test_a_mistyped_key_is_refused_in_every_format_at_its_own_place(client, name):
    status = 422 if name == "texts" else 400
    said = refusal(client, ["a text", {"title": "t"}, {"contens": "x"}], PLACES[name], name, status)
    assert said.startswith(f"{name}[2]: ")


def test_the_second_side_of_pairs_is_checked_under_its_own_name(client):
    reply = post(client, "/score", {"text_1": QUERY, "text_2": [{"contents": "x"}]})
    assert (reply.status_code, reply.json["detail"].partition(":")[0]) == (400, "text_2[0]")


def test_a_query_with_a_mistyped_key_is_refused(client):
    reply = post(client, "/v1/rerank", {"query": {"txt": "x"}, "documents": ["a"]})
    assert reply.json["detail"] == "query: has neither text nor content; did you mean 'text' instead of 'txt'?"


@pytest.mark.parametrize(
    ("documents", "fields"),
    [
        ([{"title": "t"}], {}),
        ([{"page_content": "t"}], {}),
        ([{"text": None, "texts": "t"}], {}),
        ([{"text": "a"}, {"contents": "t"}], {}),
        ([{"contents": "t"}], {"rank_fields": ["contents"]}),
        ([{}], {}),
    ],
)
def test_other_objects_are_scored_as_before(client, documents, fields):
    assert ask(client, documents=documents, **fields)["results"]


@pytest.mark.parametrize("content", [1, 1.5, True, {"a": "b"}, [1], ["x", None], [["x"]]])
def test_content_that_is_no_text_and_no_list_of_parts_is_refused(client, content):
    place = "must be a string, null or a list of parts"
    assert refusal(client, [{"content": content}]) == f"documents[0].content: {place}"
    assert refusal(client, ["a", {"content": content}], "/v1/rerank") == f"documents[1].content: {place}"
    reply = post(client, "/v1/rerank", {"query": {"content": content}, "documents": ["a"]})
    assert (reply.status_code, reply.json["detail"]) == (400, f"query.content: {place}")


def test_content_that_native_documents_mix_with_texts_is_refused(client):
    reply = post(client, "/rerank", {"query": QUERY, "documents": [{"content": "x"}, {"content": 1}]})
    assert (reply.status_code, reply.json["error"]["code"]) == (400, "invalid_request")
    assert "documents[" in reply.json["error"]["message"]


@pytest.mark.parametrize("content", ["x", None, [{"type": "text", "text": "x"}], ["x"], []])
def test_content_that_is_a_text_null_or_a_list_of_parts_is_taken(client, content):
    assert post(client, "/rerank", {"query": QUERY, "documents": [{"content": content}]}).status_code == 200


def test_content_beside_a_text_is_the_callers_own(client):
    documents = [{"text": "x", "content": {"any": "thing"}}]
    assert ask(client, documents=documents, return_documents=True)["results"][0]["document"] == documents[0]


def test_one_document_whose_parts_are_none_is_refused(client):
    reply = post(client, "/v1/rerank", {"query": QUERY, "documents": {"content": [1]}})
    assert (reply.status_code, reply.json["detail"].partition(":")[0]) == (400, "documents.content")
