import json
import re
import threading
from typing import get_args

import pytest

from webapp.api import health
from webapp.api.models import SCALES
from webapp.app import create_app
from webapp.types import ScoreScale

BODY = {"query": "q", "documents": [{"content": "a", "metadata": {"id": 7}}, "b", "c"]}


def test_ranks_documents_and_returns_their_metadata(client):
    reply = client.post("/rerank", json=BODY)
    assert reply.status_code == 200
    answer = reply.json
    assert answer["query"] == "q"
    assert answer["model"] == "stub"
    assert answer["latency_ms"] > 0
    scores = [result["score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    by_index = {result["index"]: result for result in answer["results"]}
    assert by_index[0]["content"] == "a"
    assert by_index[0]["metadata"] == {"id": 7}
    assert by_index[1]["metadata"] == {}
    assert all("truncated" not in result for result in answer["results"])


def test_a_cut_document_is_marked(client):
    reply = client.post("/rerank", json={"query": "q", "documents": [{"content": "x" * 9000}, "y"]})
    assert {result["index"]: result.get("truncated") for result in reply.json["results"]} == {0: True, 1: None}


def test_documents_are_left_out_when_not_wanted(client):
    reply = client.post("/rerank", json={**BODY, "return_documents": False})
    assert set(reply.json["results"][0]) == {"index", "score"}


def test_raw_scores_are_logits(client):
    results = client.post("/rerank", json={**BODY, "raw_scores": True}).json["results"]
    assert all(-5 <= result["score"] <= 5 for result in results)
    assert any(not 0 <= result["score"] <= 1 for result in results)


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (99, 7), (None, 5), (0, 7)])
def test_top_k_limits_the_results(client, top_k, count):
    reply = client.post(
        "/rerank", json={"query": "q", "documents": [{"content": char} for char in "abcdefg"], "top_k": top_k}
    )
    assert len(reply.json["results"]) == count


def test_equal_scores_keep_the_order_of_the_request(client):
    reply = client.post("/rerank", json={"query": "q", "documents": ["same"] * 5})
    assert [result["index"] for result in reply.json["results"]] == [0, 1, 2, 3, 4]


def test_ten_thousand_documents_are_one_request(service):
    big = create_app(service, request_timeout_s=30, max_body_bytes=10**8, limits={}).test_client()
    reply = big.post("/rerank", json={"query": "q", "documents": [f"document {n}" for n in range(10_000)], "top_k": 0})
    assert len(reply.json["results"]) == 10_000


def test_a_batch_answers_in_order_with_errors_in_place(client):
    reply = client.post("/rerank/batch", json=[BODY, {"query": "q"}, {"query": "r", "documents": ["x"]}])
    assert reply.status_code == 200
    assert [answer.get("query") for answer in reply.json] == ["q", None, "r"]
    assert reply.json[1]["error"]["field"] == "documents"


@pytest.mark.parametrize("body", [b"[]", b"{}", b"3", b"", b'"x"'])
def test_a_batch_that_is_no_list_of_requests_is_refused(client, body):
    assert client.post("/rerank/batch", data=body).status_code == 400


def test_content_type_does_not_matter(client):
    assert client.post("/rerank", data=json.dumps(BODY), content_type="text/plain").status_code == 200
    assert client.post("/rerank", data=json.dumps(BODY)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/rerank", b"{", 400, "invalid_request"),
        ("POST", "/rerank", b"x" * 100_001, 413, "payload_too_large"),
        ("GET", "/nowhere", None, 404, "not_found"),
        ("GET", "/rerank", None, 405, "method_not_allowed"),
    ],
)
def test_every_error_is_json_with_the_request_id(client, method, path, body, status, code):
    reply = client.open(path, method=method, data=body, headers={"X-Request-Id": "mine-1"})
    assert (reply.status_code, reply.content_type) == (status, "application/json")
    assert reply.json["code"] == code
    assert reply.json["error"]["code"] == status
    assert reply.json["request_id"] == reply.headers["X-Request-Id"] == "mine-1"


def test_a_fault_of_ours_tells_the_client_nothing_and_the_log_everything(client, service, monkeypatch, caplog):
    def fail(*_):
        raise KeyError("secret detail")

    monkeypatch.setattr(service, "rerank_all", fail)
    reply = client.post("/rerank", json=BODY)
    assert reply.status_code == 500
    assert b"secret" not in reply.data
    assert "secret detail" in caplog.text


def test_overload_is_503_with_retry_after(client, service):
    with service._admission.admit():
        service._admission.max_ongoing_requests = 1
        reply = client.post("/rerank", json=BODY)
    assert reply.status_code == 503
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.json["error"]["retryable"] is True


def test_a_request_past_its_deadline_is_504(service):
    client = create_app(service, request_timeout_s=-1, max_body_bytes=1000, limits={}).test_client()
    assert client.post("/rerank", json={"query": "q", "documents": [{"content": "x"}] * 50}).status_code == 504


@pytest.mark.parametrize("given", ["bad id\n", "x" * 200, "<script>", ""])
def test_an_unusable_request_id_is_replaced(client, given):
    made = client.get("/health", headers={"X-Request-Id": given.strip("\n")}).headers["X-Request-Id"]
    assert len(made) == 32


def test_readiness_follows_the_service(client, service, monkeypatch):
    monkeypatch.setattr(health, "READY_WAIT_S", 0.01)
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
    service.mark_ready()
    assert client.get("/ready").status_code == 200
    service.drain()
    assert client.get("/ready").status_code == 503


def test_a_worker_that_leaves_is_ready_for_whoever_still_reaches_it(client, service):
    service.mark_ready()
    service.leave()
    service.leave()  # gunicorn may send TERM again before a worker is gone
    assert (client.get("/ready").status_code, client.get("/ready").json) == (200, {"status": "ready"})
    assert client.post("/rerank", json={"query": "q", "documents": [{"content": "x"}]}).status_code == 200


def test_a_worker_that_leaves_before_it_was_ready_never_says_so(client, service):
    service.leave()
    assert (client.get("/ready").status_code, client.get("/ready").json) == (503, {"status": "loading"})


def test_a_drained_worker_that_leaves_is_not_ready(client, service):
    service.mark_ready()
    service.drain()
    service.leave()
    assert client.get("/ready").status_code == 503


def test_who_asks_a_worker_that_loads_whether_it_is_ready_hears_of_it_once_it_is(client, service):
    threading.Timer(0.05, service.mark_ready).start()
    assert client.get("/ready").status_code == 200


def test_info_tells_model_scale_limits_and_versions(client):
    info = client.get("/info").json
    assert {"model", "revision", "precision", "max_length_tokens", "score_scale", "limits", "versions"} <= set(info)
    assert info["score_scale"].startswith("0..1")


def test_info_has_words_for_every_scale():
    assert SCALES.keys() == set(get_args(ScoreScale))
    assert all(words.startswith("0..1, ") and "raw_scores gives the " in words for words in SCALES.values())


def test_the_access_line_has_figures_and_no_text(client, caplog):
    caplog.set_level("INFO")
    client.post("/rerank", json={"query": "topsecretquery", "documents": ["topsecretdocument"]})
    line = next(record for record in caplog.records if record.name == "webapp.access")
    assert (line.path, line.status, line.documents) == ("/rerank", 200, 1)
    assert "topsecret" not in str(line.__dict__)


def test_openapi_describes_every_route_and_swagger_ui_needs_no_network(client):
    document = client.get("/openapi.json").json
    listed = {endpoint.split()[1] for endpoint in client.get("/").json["endpoints"]}
    assert set(document["paths"]) == listed
    routes = {
        re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule): rule.methods
        for rule in client.application.url_map.iter_rules()
    }
    hidden = {"/", "/api-doc/openapi.json", "/docs/start.js", "/docs/assets/{name}"}
    assert set(routes) - hidden == listed - hidden
    assert document["components"]["schemas"]["RerankBody"]["required"] == ["query", "documents"]
    page = client.get("/docs").text
    assert "http" not in page
    for asset in ("/docs/assets/js/swagger-ui-bundle.js", "/docs/assets/css/swagger-ui.css", "/docs/start.js"):
        assert asset.removeprefix("/") in page
        with client.get(asset) as reply:
            assert reply.status_code == 200


def test_a_refusal_says_how_full_the_service_is_and_reads_no_body(client, service):
    service._admission.max_queued_pairs = 0
    reply = client.post("/rerank", data=b'{"documents": [{"content": "broken"')
    assert reply.status_code in {429, 503}
    assert {"queued": 0, "limit": 0, "eta_s": 1.0}.items() <= reply.json.items()
    assert 1 <= int(reply.headers["Retry-After"]) <= 30
    native = client.post("/rerank", json=BODY)
    assert native.status_code == 503
    assert {"queued": 0, "limit": 0, "eta_s": 1.0}.items() <= native.json["error"].items()


def test_a_request_that_could_never_fit_is_413_with_the_limit(client, service):
    service._admission.max_queued_pairs = 2
    reply = client.post("/rerank", json=BODY)
    assert (reply.status_code, reply.json["error"]["limit"]) == (413, 2)
