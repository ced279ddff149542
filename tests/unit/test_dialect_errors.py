"""Errors in each caller's dialect."""

import json

import pytest
from asking import ask, post
from reranking_client.retrying import Reply, error_in

from webapp.api.dialects.registry import DIALECTS, UNKNOWN
from webapp.config.settings import Settings
from webapp.domain.errors import OverloadedError
from webapp.stack.nginx.config import REFUSALS, nginx_conf

FAMILY_ERROR = {"id", "message", "detail", "error", "status", "code", "retryable", "request_id"}


def assert_superset(error, status, code):
    """What a caller of any format finds in it."""
    assert set(error) == {"error", "message", "detail", "status", "code", "request_id"}
    assert set(error["error"]) == {"code", "message", "type", "param", "retryable"}
    assert error["error"]["code"] == code
    assert error["code"] == error["status"] == status
    assert error["detail"] == error["message"] == error["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "style"),
    [
        ("/v1/rerank", b"{", 400, "unknown"),
        ("/v1/rerank", b"", 400, "unknown"),
        ("/v1/rerank", b"[]", 400, "unknown"),
        ("/rerank", b"{", 400, "unknown"),
        ("/rerank", {"query": "q"}, 400, "unknown"),
        ("/rerank", {"query": "q", "docs": ["a"]}, 400, "unknown"),
        ("/rerank", {"query": "q", "documents": 3}, 400, "documents"),
        ("/v1/rerank", {"query": "q"}, 400, "documents"),
        ("/v1/rerank", {"documents": ["a"]}, 400, "documents"),
        ("/v1/rerank", {"query": " ", "documents": ["a"]}, 400, "documents"),
        ("/v2/rerank", {"query": "q", "documents": []}, 400, "documents"),
        ("/v1/rerank", {"query": "q", "documents": ["a"], "top_n": -2}, 400, "documents"),
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
    elif style == "unknown":
        assert_superset(error, status, "invalid_request")
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
    with service.admission.arrive(0):
        service.admission.max_ongoing_requests = 1
        reply = post(client, path, body)
    assert reply.status_code == (503 if form == "native" else 429)
    assert int(reply.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("path", "status"), [("/rerank", 503), ("/rerank/batch", 503), ("/v1/rerank", 429), ("/v2/rerank", 429)]
)
def test_a_full_service_answers_a_large_body_as_its_path_tells_and_does_not_read_it(client, service, path, status):
    broken = b"[" * 90_000
    with service.admission.arrive(0):
        service.admission.max_ongoing_requests = 1
        reply = post(client, path, broken)
    assert (reply.status_code, "overloaded" in reply.text) == (status, True)
    assert int(reply.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("form", FORMS)
def test_a_service_without_its_engine_answers_503_to_all(client, stub_rig, form):
    path, body = FORMS[form]
    stub_rig.scheduler.close()
    reply = post(client, path, body)
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", None, 404, "not_found"),
        ("GET", "/v2/nowhere", None, 404, "not_found"),
        ("POST", "/infinity/nowhere", b"{}", 404, "not_found"),
        ("POST", "/api/nowhere", None, 404, "not_found"),
        ("GET", "/v2/rerank", None, 405, "method_not_allowed"),
        ("GET", "/score", None, 405, "method_not_allowed"),
        ("POST", "/info", b"{}", 405, "method_not_allowed"),
        ("POST", "/rerank", b"x" * 100_001, 413, "payload_too_large"),
    ],
)
def test_an_error_that_tells_no_format_can_be_read_by_callers_of_all(client, method, path, body, status, code):
    reply = client.open(path, method=method, data=body)
    assert reply.status_code == status
    assert_superset(reply.json, status, code)


def test_a_body_that_tells_its_format_is_answered_in_it_at_a_path_that_does_not_exist(client):
    assert isinstance(post(client, "/nowhere", {"query": "q", "texts": ["a"]}).json["error"], str)
    assert post(client, "/nowhere", {"query": "q", "documents": ["a"]}).json["error"]["code"] == 404


@pytest.mark.parametrize(("status", "refused_as", "message"), REFUSALS)
def test_nginx_and_the_app_refuse_with_the_same_body(status, refused_as, message):
    conf = nginx_conf(Settings())
    (body,) = {line for line in conf.splitlines() if f"return {status} '" in line and message in line}
    error = json.loads(body.partition("'")[2].rpartition("'")[0])
    assert_superset(error, status, refused_as.code)
    assert error == json.loads(UNKNOWN.errors.dump(refused_as(message), status, "$rerank_request_id"))


@pytest.mark.parametrize("form", ["native", "documents", "tei", "unknown"])
def test_our_own_client_reads_the_code_of_an_error_of_every_format_that_has_it(form):
    error = OverloadedError("full")
    dialect = {each.name: each for each in (*DIALECTS, UNKNOWN)}[form]
    code, message = error_in(Reply(429, {}, dialect.errors.dump(error, 429, "id-1")))
    assert (code, message) == (("", "no reason given") if form == "tei" else ("overloaded", "full"))
