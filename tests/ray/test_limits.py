"""Refused, late and hung-up requests; and what an operator sees."""

import json
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
import yaml
from ray_kit import PROGRAMS, ROOT
from running import PATIENCE_S, wait_for

LARGE = [f"{number} " + "bees find home " * 60 for number in range(2000)]


def ask(stack, path, documents, **headers):
    body = {"query": f"how do bees find home, {time.monotonic()}", "documents": documents}
    return requests.post(f"{stack.url}{path}", json=body, headers=headers, timeout=PATIENCE_S)


@pytest.mark.parametrize(("path", "of_ours", "status"), [("/rerank", True, 503), ("/v1/rerank", False, 429)])
def test_more_than_a_replica_takes_is_refused_in_the_callers_dialect(stack, path, of_ours, status):
    stack.deploy(user_config={"max_ongoing_requests": 1, "cache_mb": 0})
    texts = [{"content": text} if of_ours else text for text in LARGE[:200]]
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: ask(stack, path, texts), range(12)))
    counted = Counter(reply.status_code for reply in replies)
    assert set(counted) == {200, status}, counted
    for reply in replies:
        if reply.status_code == status:
            assert 1 <= int(reply.headers["Retry-After"]) <= 30
            assert "the limit is 1" in reply.text
            assert reply.headers["X-Request-Id"] in reply.text


def test_what_serves_own_queue_has_no_place_for_is_refused_with_retry_after(stack):
    stack.deploy(num_replicas=1, max_ongoing_requests=1, max_queued_requests=1, user_config={"cache_mb": 0})
    wait_for(lambda: len(stack.deployment()["replicas"]) == 1, "one replica")
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: ask(stack, "/v1/rerank", LARGE[:200]), range(12)))
    counted = Counter(reply.status_code for reply in replies)
    assert set(counted) == {200, 503}, counted
    assert all(reply.headers["Retry-After"] == "1" for reply in replies if reply.status_code == 503)


def test_of_many_at_once_each_replica_gets_as_much_work_as_the_other(stack):
    """Serve's own router counts requests, and those that come at once too late: one replica queues, another waits."""
    stack.deploy(user_config={"cache_mb": 0})
    sent = {f"shared-{number}": LARGE[: 240 if number < 4 else 24] for number in range(16)}
    with ThreadPoolExecutor(len(sent)) as pool:
        replies = list(pool.map(lambda name: ask(stack, "/rerank", sent[name], **{"X-Request-Id": name}), sent))
    assert [reply.status_code for reply in replies] == [200] * len(sent)
    lines = wait_for(lambda: len(found := access_lines(stack, "shared-")) == len(sent) and found, "all access lines")
    documents = Counter()
    for line in lines:
        documents[line["pid"]] += len(sent[line["request_id"]])
    assert len(documents) == 2
    assert min(documents.values()) >= 0.4 * sum(documents.values()), documents


def test_a_callers_deadline_is_answered_in_its_dialect(stack):
    reply = ask(stack, "/v1/rerank", LARGE, **{"X-Request-Timeout": "0.3"})
    assert (reply.status_code, reply.json()["total"]) == (429, len(LARGE))


def test_a_caller_that_hangs_up_frees_the_engine(stack):
    body = {"query": "bees, once more", "documents": LARGE}
    with pytest.raises(requests.ReadTimeout):
        requests.post(f"{stack.url}/rerank", json=body, headers={"X-Request-Id": "hung-up"}, timeout=1)
    (line,) = wait_for(lambda: access_lines(stack, "hung-up"), "the access line of the hung-up call")
    assert line["status"] == 499
    assert requests.get(f"{stack.url}/load", timeout=PATIENCE_S).json() == {"server_load": 0}


def access_lines(stack, request_id):
    """The service's own log is in Ray's files of what its workers say."""
    lines = [line for file in stack.logs.glob("worker-*.err") for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if request_id in line and line.startswith("{")]


def test_replicas_meet_no_gevent_and_share_the_pages_of_the_model(stack):
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in stack.replicas()]
    assert len(maps) == 2
    for each in maps:
        assert "gevent" not in each
        assert "torch" not in each
        assert any(line.endswith("model.bin") for line in each.splitlines())


def test_one_request_id_is_in_reply_header_and_body(stack):
    reply = requests.post(f"{stack.url}/rerank", data=b"{", headers={"X-Request-Id": "find-me-8"}, timeout=PATIENCE_S)
    assert (reply.status_code, reply.headers["X-Request-Id"]) == (400, "find-me-8")
    assert "find-me-8" in reply.text


def test_a_wrong_user_config_costs_one_replica_until_it_is_put_right(stack):
    before = set(stack.replicas())
    stack.deploy(user_config={"max_document": 7}, wait=False)
    wait_for(lambda: stack.application()["status"] == "DEPLOY_FAILED", "Serve gives up")
    assert "max_document is no setting; did you mean max_documents?" in stack.deployment()["message"]
    assert stack.rerank().status_code == 200
    assert set(stack.replicas()) < before, "one was given up, the other serves"
    stack.deploy(user_config={})
    assert len(stack.replicas()) == 2


def test_an_operator_sees_what_runs_and_can_write_the_configuration(stack, tmp_path):
    status = yaml.safe_load(stack.serve("status"))
    assert status["applications"]["reranking"]["status"] == "RUNNING"
    assert status["applications"]["reranking"]["deployments"]["reranking"]["replica_states"] == {"RUNNING": 2}
    assert yaml.safe_load(stack.serve("config"))["import_path"] == "reranking_server.ray_app:app"
    built = tmp_path / "built.yaml"
    stack.serve("build", "reranking_server.ray_app:app", "-o", str(built))
    (application,) = yaml.safe_load(built.read_text())["applications"]
    assert application["deployments"][0]["max_ongoing_requests"] == 640


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_serves_own_schema_takes_what_is_shipped(name):
    content = yaml.safe_load((ROOT / "deploy" / "ray" / name).read_text())
    config = yaml.safe_load(content["spec"]["serveConfigV2"]) if "spec" in content else content
    code = "import json, sys; from ray.serve.schema import ServeDeploySchema; ServeDeploySchema(**json.load(sys.stdin))"
    subprocess.run([PROGRAMS / "python", "-c", code], input=json.dumps(config), text=True, check=True)
