"""Errors in each caller's dialect."""

import pytest
from asking import ask, post

FAMILY_ERROR = {"id", "message", "detail", "error", "status", "code", "retryable", "request_id"}


@pytest.mark.parametrize(
    ("path", "body", "status", "style"),
    [
        ("/v1/rerank", b"{", 400, "documents"),
        ("/v1/rerank", b"", 400, "documents"),
        ("/v1/rerank", {"query": "q"}, 400, "documents"),
        ("/v1/rerank", {"documents": ["a"]}, 400, "documents"),
        ("/v1/rerank", {"query": " ", "documents": ["a"]}, 400, "documents"),
        ("/v2/rerank", {"query": "q", "documents": []}, 400, "documents"),
        ("/v1/rerank", {"query": "q", "documents": ["a"], "top_n": -1}, 400, "documents"),
        ("/v1/rerank", {"query": "q", "documents": [3]}, 400, "documents"),
        ("/v1/rerank", {"query": "q", "documents": ["a"], "truncation_side": "up"}, 400, "documents"),
        ("/v1/ranking", {"query": "q"}, 400, "documents"),
        ("/v1/reranking", {"input": ["a"]}, 400, "documents"),
        ("/score", {"text_1": "a"}, 400, "documents"),
        ("/rerank", {"query": "q", "texts": []}, 400, "tei"),
        ("/rerank", {"texts": ["a"]}, 422, "tei"),
        ("/rerank", {"query": 3, "texts": ["a"]}, 422, "tei"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "tei"),
        ("/predict", b"{", 422, "tei"),
        ("/rerank", {"query": "", "documents": ["a"], "property": ""}, 400, "tei"),
        ("/rerank", {"query": "", "documents": [{"content": "a"}]}, 400, "native"),
        ("/rerank/batch", b"{", 400, "native"),
    ],
)
def test_an_error_comes_in_the_callers_dialect(client, path, body, status, style):
    reply = post(client, path, body, headers={"X-Request-Id": "mine"})
    assert (reply.status_code, reply.content_type) == (status, "application/json")
    error = reply.json
    assert error["request_id"] == "mine"
    if style == "documents":
        assert set(error) == FAMILY_ERROR
        assert error["detail"] == error["message"] == error["error"]["message"]
        assert (error["error"]["type"], error["error"]["code"]) == ("BadRequestError", 400)
    elif style == "tei":
        assert isinstance(error["error"], str)
        assert error["error_type"] == ("Empty" if status == 400 else "Validation")
    else:
        assert error["error"]["code"] == "invalid_request"


def test_voyages_error_has_no_object_that_its_older_clients_would_fail_over(client):
    reply = post(client, "/v1/rerank", {"query": "", "documents": ["a"], "truncation": True, "top_k": None})
    assert reply.status_code == 400
    assert reply.json["detail"] == "query: must not be blank"
    assert "error" not in reply.json
    assert ask(client, truncation=True, top_k=None)["data"]


def test_pinecones_error_has_its_own_code(client):
    reply = post(client, "/rerank", {"query": "q"}, headers={"X-Pinecone-Api-Version": "2025-10"})
    assert (reply.status_code, reply.json["status"], reply.json["error"]["code"]) == (400, 400, "INVALID_ARGUMENT")


FORMS = {
    "native": ("/rerank", {"query": "q", "documents": [{"content": "a"}]}),
    "documents": ("/v1/rerank", {"query": "q", "documents": ["a"]}),
    "v2": ("/v2/rerank", {"query": "q", "documents": ["a"]}),
    "tei": ("/rerank", {"query": "q", "texts": ["a"]}),
    "nim": ("/v1/ranking", {"query": "q", "passages": ["a"]}),
    "score": ("/score", {"text_1": "q", "text_2": "a"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_full_service_answers_503_natively_and_429_to_others(client, service, form):
    path, body = FORMS[form]
    with service._admission.admit():
        service._admission.max_ongoing_requests = 1
        reply = post(client, path, body)
    assert reply.status_code == (503 if form == "native" else 429)
    assert int(reply.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("form", FORMS)
def test_a_draining_service_answers_503_to_all(client, service, form):
    path, body = FORMS[form]
    service.drain()
    reply = post(client, path, body)
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) >= 1
