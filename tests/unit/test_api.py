import datetime as dt
import json
import re
import threading
import urllib.parse
from typing import get_args

import pytest
from app_kit import create_app

from webapp.api.routes import health
from webapp.api.routes.info import SCALES
from webapp.domain.types import ScoreScale

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


def test_a_batch_of_more_requests_than_a_call_may_hold_is_refused_with_the_limit(service):
    client = create_app(
        service, request_timeout_s=30, max_body_bytes=100_000, max_batch_requests=2, limits={}
    ).test_client()
    assert client.post("/rerank/batch", json=[BODY] * 2).status_code == 200
    reply = client.post("/rerank/batch", json=[BODY] * 3)
    assert (reply.status_code, reply.json["error"]["limit"]) == (413, 2)


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
    assert reply.json["error"]["code"] == code
    assert reply.json["code"] == reply.json["status"] == status
    assert reply.json["request_id"] == reply.headers["X-Request-Id"] == "mine-1"


def test_a_fault_of_ours_tells_the_client_nothing_and_the_log_everything(client, service, monkeypatch, caplog):
    def fail(*_, **__):
        raise KeyError("secret detail")

    monkeypatch.setattr(service, "rerank_all", fail)
    reply = client.post("/rerank", json=BODY)
    assert reply.status_code == 500
    assert b"secret" not in reply.data
    assert "secret detail" in caplog.text


def test_overload_is_503_with_retry_after(client, service):
    with service.admission.arrive(0):
        service.admission.max_ongoing_requests = 1
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
    monkeypatch.setattr(service, "_drains", lambda: True)
    assert (client.get("/ready").status_code, client.get("/ready").json) == (503, {"status": "draining"})
    assert client.post("/rerank", json=BODY).status_code == 200
    service.leave()
    assert client.get("/ready").status_code == 503


def test_a_draining_worker_is_ready_for_requests_that_still_reach_it(client, service):
    service.mark_ready()
    service.leave()
    service.leave()  # gunicorn may send TERM again before a worker is gone
    assert (client.get("/ready").status_code, client.get("/ready").json) == (200, {"status": "ready"})
    assert client.post("/rerank", json={"query": "q", "documents": [{"content": "x"}]}).status_code == 200


def test_a_worker_that_leaves_before_it_was_ready_does_not_say_so(client, service, monkeypatch):
    monkeypatch.setattr(health, "READY_WAIT_S", 0.01)
    service.leave()
    assert (client.get("/ready").status_code, client.get("/ready").json) == (503, {"status": "loading"})


def test_a_request_for_readiness_waits_until_a_loading_worker_is_ready(client, service):
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


def test_openapi_describes_every_route(client):
    document = client.get("/openapi.json").json
    listed = {endpoint.split()[1] for endpoint in client.get("/").json["endpoints"] if " " in endpoint}
    assert set(document["paths"]) == listed
    routes = {
        re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule): rule.methods
        for rule in client.application.url_map.iter_rules()
    }
    hidden = {"/", "/api-doc/openapi.json", "/docs/start.js", "/docs/assets/{name}"}
    assert set(routes) - hidden == listed - hidden
    assert document["components"]["schemas"]["RerankBody"]["required"] == ["query", "documents"]


@pytest.mark.parametrize(
    "asset", ["docs/assets/js/swagger-ui-bundle.js", "docs/assets/css/swagger-ui.css", "docs/start.js"]
)
def test_swagger_ui_needs_no_network(client, asset):
    page = client.get("/docs").text
    assert "http" not in page
    assert asset in page
    with client.get(f"/{asset}") as reply:
        assert reply.status_code == 200


def test_a_refusal_says_how_full_the_service_is_and_reads_no_body(client, service):
    service.admission.max_queued_pairs = 0
    reply = client.post("/rerank", data=b'{"documents": [{"content": "broken"')
    assert reply.status_code in {429, 503}
    assert {"queued": 0, "limit": 0, "eta_s": 1.0}.items() <= reply.json.items()
    assert 1 <= int(reply.headers["Retry-After"]) <= 30
    native = client.post("/rerank", json=BODY)
    assert native.status_code == 503
    assert {"queued": 0, "limit": 0, "eta_s": 1.0}.items() <= native.json["error"].items()


def test_a_request_that_could_never_fit_is_413_with_the_limit(client, service):
    service.admission.max_queued_pairs = 2
    reply = client.post("/rerank", json=BODY)
    assert (reply.status_code, reply.json["error"]["limit"]) == (413, 2)


def test_health_says_what_clients_of_the_usual_tutorial_server_read(client, service):
    service.mark_ready()
    told = client.get("/health").json
    assert told["status"] == "ok"
    assert told["model_loaded"] is True
    assert abs(dt.datetime.fromisoformat(told["timestamp"]).timestamp() - told["unix"]) < 0.001
    assert dt.datetime.fromisoformat(told["timestamp"]).utcoffset() == dt.timedelta(0)
    service.leave()
    assert client.get("/health").json["model_loaded"] is True, "it leaves, but the model is there"


def test_health_says_that_no_model_is_loaded_before_a_score_was_made(client, service):
    assert client.get("/health").json["model_loaded"] is False
    service.mark_ready()
    assert client.get("/health").json["model_loaded"] is True


def test_the_first_page_lists_endpoints_for_both_kinds_of_readers(client):
    listed = client.get("/").json["endpoints"]
    assert {name: listed[name] for name in ("health", "rerank", "docs")} == {
        "health": "/health",
        "rerank": "/rerank",
        "docs": "/docs",
    }
    assert listed["POST /rerank"]


A_BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (A_BROWSER, "text/html"),
        ("text/html", "text/html"),
        ("*/*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("", "application/json"),
        ("image/png", "application/json"),
    ],
)
def test_a_browser_gets_a_page_and_a_program_json(client, accept, kind):
    reply = client.get("/", headers={"Accept": accept} if accept else {})
    assert reply.content_type.startswith(kind)
    assert "Accept" in reply.vary
    if kind == "text/html":
        links = re.findall(r'href="([^"]+)"', reply.text)
        assert {"dashboard/", "docs", "metrics"} <= set(links), "relative: right under any prefix"


@pytest.mark.parametrize(
    ("said", "server"),
    [
        (None, "."),
        ("/search", "/search"),
        ("/search/v1/", "/search/v1"),
        ("//evil.example", "."),
        ("https://evil.example", "."),
        ("/..", "."),
        ("/a/../b", "."),
        ("/a b", "."),
        ('/a"><script>', "."),
        ("/a, /b", "."),
    ],
)
def test_the_description_s_server_is_the_prefix_where_that_is_a_plain_path(client, said, server):
    headers = {"X-Forwarded-Prefix": said} if said else {}
    described = client.get("/openapi.json", headers=headers)
    assert described.json["servers"] == [{"url": server}]
    assert described.json["paths"]["/rerank"]
    page = client.get("/", headers={**headers, "Accept": "text/html"}).text
    assert f'href="{"" if server == "." else server + "/"}docs"' in page


def test_the_description_under_its_other_name_leads_to_the_same_paths(client):
    server = client.get("/api-doc/openapi.json").json["servers"][0]["url"]
    assert urllib.parse.urljoin("http://host/prefix/api-doc/openapi.json", server).rstrip("/") == "http://host/prefix"


def test_a_slash_behind_the_api_page_leads_to_it(client):
    reply = client.get("/docs/")
    assert reply.status_code == 308
    assert urllib.parse.urljoin("http://host/prefix/docs/", reply.headers["Location"]) == "http://host/prefix/docs"


def access_line(client, caplog, method, path, **options):
    caplog.clear()
    with caplog.at_level("DEBUG", "webapp.access"):
        client.open(path, method=method, **options)
    (record,) = [record for record in caplog.records if record.name == "webapp.access"]
    return record


def test_the_access_line_of_a_refusal_has_its_code_and_field(client, caplog):
    record = access_line(client, caplog, "POST", "/rerank", json={**BODY, "top_k": "many"})
    assert (record.levelname, record.code, record.field) == ("WARNING", "invalid_request", "top_k")
    record = access_line(client, caplog, "GET", "/nowhere")
    assert (record.levelname, record.code, record.field) == ("WARNING", "not_found", "")
    record = access_line(client, caplog, "POST", "/rerank", json=BODY)
    assert record.levelname == "INFO"
    assert not hasattr(record, "code")


@pytest.mark.parametrize("path", [*health.LIVE, *health.READY])
def test_probes_have_no_access_line_above_debug(client, caplog, path):
    assert access_line(client, caplog, "GET", path).levelname == "DEBUG"
