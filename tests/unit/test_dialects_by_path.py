"""DashScope's and ZeroEntropy's formats, at paths of their own."""

import json

import pytest
from asking import BEST_FIRST, QUERY, TEXTS, ask, post

from webapp.api.dialects import dashscope, zeroentropy
from webapp.api.dialects.base import Call
from webapp.api.errors import COLUMN, STATUS
from webapp.domain.errors import (
    EngineFailedError,
    ModelNotFoundError,
    OverloadedError,
    PayloadTooLargeError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)
from webapp.engine.runtimes.stub import stub_logit

# --- DashScope


def dashscope_asks(client, parameters=None, **fields):
    return post(
        client, dashscope.PATH, {"input": {"query": QUERY, "documents": TEXTS}, "parameters": parameters, **fields}
    )


def test_dashscope_gets_output_usage_and_the_request_s_id(client):
    body = {"model": "gte-rerank-v2", "input": {"query": QUERY, "documents": TEXTS}, "parameters": {"top_n": 2}}
    answer = post(client, dashscope.PATH, body, headers={"X-Request-Id": "mine"}).json
    assert set(answer) == {"output", "usage", "request_id"}
    assert [entry["index"] for entry in answer["output"]["results"]] == BEST_FIRST[:2]
    assert set(answer["output"]["results"][0]) == {"index", "relevance_score"}
    assert answer["usage"]["total_tokens"] > 0
    assert answer["request_id"] == "mine"


def test_dashscope_echoes_objects_with_their_text(client):
    results = dashscope_asks(client, {"return_documents": True}).json["output"]["results"]
    assert [entry["document"] for entry in results] == [{"text": TEXTS[index]} for index in BEST_FIRST]
    documents = [{"text": "a", "id": 7}]
    (entry,) = dashscope_asks(client, input={"query": QUERY, "documents": documents}, return_documents=True).json[
        "output"
    ]["results"]
    assert entry["document"] == documents[0]


def test_dashscope_s_parameters_go_before_what_stands_beside_them(client):
    both = dashscope_asks(client, {"top_n": 1}, top_n=2, raw_scores=True).json["output"]["results"]
    assert len(both) == 1
    assert both[0]["relevance_score"] == pytest.approx(max(map(stub_logit, TEXTS)), abs=0.002)
    assert len(dashscope_asks(client, top_n=2).json["output"]["results"]) == 2


def test_dashscope_s_newer_path_takes_all_in_one_object(client):
    answer = ask(client, dashscope.COMPATIBLE_PATH, model="qwen3-rerank", top_n=2, return_documents=True)
    assert set(answer) == {"id", "object", "model", "results", "usage"}
    assert (answer["object"], answer["model"]) == ("list", "qwen3-rerank")
    assert [entry["index"] for entry in answer["results"]] == BEST_FIRST[:2]
    assert answer["results"][0]["document"] == {"text": TEXTS[BEST_FIRST[0]]}
    assert "document" not in ask(client, dashscope.COMPATIBLE_PATH)["results"][0]


ASKED = {"query": QUERY, "documents": TEXTS}


@pytest.mark.parametrize(
    ("body", "warnings"),
    [
        ({"parameters": {"top_n": 1, "return_documents": False}}, []),
        ({"parameters": {"topn": 1}}, ["'topn' was ignored: there is no such field; did you mean 'top_n'?"]),
        ({"input": {**ASKED, "top_n": 1}}, ["'top_n' in input was ignored: 'top_n' belongs in parameters"]),
        ({"input": {**ASKED, "topn": 1}}, ["'topn' in input was ignored: 'top_n' belongs in parameters"]),
        ({"input": {**ASKED, "model": "m"}}, ["'model' in input was ignored: 'model' belongs beside it"]),
        ({"documents": ["a"]}, ["'documents' was ignored: it belongs in input"]),
        ({"parameters": {"model": "m"}}, ["'model' in parameters was ignored: it belongs beside them"]),
    ],
)
def test_what_has_no_effect_in_dashscope_s_objects_is_said(client, body, warnings):
    assert dashscope_asks(client, **body).headers.getlist("X-Rerank-Warning") == warnings


def test_a_model_in_dashscope_s_parameters_names_no_model():
    call = Call(dashscope.PATH, {}, json.dumps({"input": ASKED, "model": "a", "parameters": {"model": "b"}}).encode())
    assert [request.model for request in dashscope.DIALECT.parse(call)] == ["a"]


def test_what_has_no_effect_at_dashscope_s_newer_path_is_said(client):
    reply = post(client, dashscope.COMPATIBLE_PATH, {**ASKED, "parameters": {"top_n": 1}})
    assert "'parameters' was ignored" in reply.headers["X-Rerank-Warning"]


def test_dashscope_s_instruct_is_our_instruction(client):
    assert "instruction" in dashscope_asks(client, {"instruct": "be kind"}).headers["X-Rerank-Warning"]
    reply = post(client, dashscope.COMPATIBLE_PATH, {"query": "q", "documents": ["a"], "instruct": "be kind"})
    assert "instruction" in reply.headers["X-Rerank-Warning"]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"query": {"image": "https://a.example/1.png"}, "documents": ["a"]}, "query"),
        ({"query": "q", "documents": ["a", {"video": "https://a.example/1.mp4"}]}, "documents[1]"),
        ({"query": "q", "documents": {"image": "https://a.example/1.png"}}, "documents[0]"),
        ({"query": "q", "documents": [{"text": " ", "image": "https://a.example/1.png"}]}, "documents[0]"),
        ({"query": "q", "documents": [{"text": None, "multi_images": ["https://a.example/1.png"]}]}, "documents[0]"),
    ],
)
def test_dashscope_s_images_and_videos_are_refused(client, asked, field):
    for path, body, at in ((dashscope.PATH, {"input": asked}, "input."), (dashscope.COMPATIBLE_PATH, asked, "")):
        reply = post(client, path, body)
        assert reply.status_code == 400
        assert reply.json["message"] == f"{at}{field}: holds no text; this model reads text only"
    assert post(client, dashscope.COMPATIBLE_PATH, {"query": "q", "documents": [{"image": "x", "text": "a"}]}).json[
        "id"
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"model": "m"}, "input: is required"),
        ({"input": {"query": "q"}}, "input.documents: is required"),
        ({"input": {"query": " ", "documents": ["a"]}}, "query: must not be blank"),
        ({"input": {"query": "q", "documents": []}}, "documents: must hold at least one document"),
        ({"input": {"query": "q", "documents": ["a"]}, "parameters": {"top_n": -1}}, "parameters.top_n: "),
        (b"{", "the body is not JSON"),
    ],
)
def test_dashscope_s_error_has_its_own_code(client, body, message):
    reply = post(client, dashscope.PATH, body, headers={"X-Request-Id": "mine"})
    assert reply.status_code == 400
    assert set(reply.json) == {"code", "message", "request_id"}
    assert (reply.json["code"], reply.json["request_id"]) == ("InvalidParameter", "mine")
    assert reply.json["message"].startswith(message)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (UnauthorizedError, 401, "InvalidApiKey"),
        (ModelNotFoundError, 404, "ModelNotFound"),
        (PayloadTooLargeError, 413, "BadRequest.TooLarge"),
        (RateLimitedError, 429, "Throttling.RateQuota"),
        (OverloadedError, 429, "Throttling"),
        (EngineFailedError, 500, "InternalError"),
        (UnavailableError, 503, "ServiceUnavailable"),
    ],
)
def test_dashscope_s_codes(error, status, code):
    assert STATUS[error][COLUMN[dashscope.ERRORS.profile]] == status
    assert json.loads(dashscope.ERRORS.dump(error("why"), status, "id-1"))["code"] == code


# --- ZeroEntropy


def test_zeroentropy_gets_results_times_and_counts(client):
    documents = [*TEXTS, "é"]
    best_first = sorted(range(4), key=lambda index: -stub_logit(documents[index]))
    answer = ask(client, zeroentropy.PATH, model="zerank-2", top_n=2, documents=documents)
    assert [entry["index"] for entry in answer["results"]] == best_first[:2]
    assert set(answer["results"][0]) == {"index", "relevance_score"}
    assert answer["total_bytes"] == sum(150 + len(QUERY) + len(text.encode()) for text in documents)
    assert answer["total_tokens"] > 0
    assert answer["actual_latency_mode"] == "fast"
    assert answer["e2e_latency"] >= answer["inference_latency"] >= 0


@pytest.mark.parametrize(
    ("fields", "priority", "mode"),
    [
        ({}, 0, "fast"),
        ({"latency": None}, 0, "fast"),
        ({"latency": "fast"}, 0, "fast"),
        ({"latency": "slow"}, 1, "slow"),
        ({"latency": "slow", "priority": -5}, -5, "fast"),
    ],
)
def test_zeroentropy_s_slow_requests_let_others_go_first(client, fields, priority, mode):
    call = Call(zeroentropy.PATH, {}, json.dumps({"query": QUERY, "documents": TEXTS, **fields}).encode())
    (request,) = zeroentropy.DIALECT.parse(call)
    assert request.priority == priority
    assert ask(client, zeroentropy.PATH, **fields)["actual_latency_mode"] == mode


def test_zeroentropy_s_errors_name_the_field(client):
    reply = post(client, zeroentropy.PATH, {"query": QUERY, "documents": TEXTS, "latency": "soon"})
    assert (reply.status_code, reply.json["error"]["param"]) == (400, "latency")
    assert post(client, zeroentropy.PATH, {"query": QUERY}).json["detail"] == "documents: is required"
