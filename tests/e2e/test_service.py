"""A client, nginx, gunicorn, a real model."""

import http.client
import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
import small_models
from running import PATIENCE_S, wait_for

from webapp.engine.models.original import load_source


def test_ranks_as_the_model_itself_does(stack, bert):
    documents = small_models.texts(40)
    reply = stack.rerank(documents, body={"top_k": 0, "raw_scores": True})
    assert reply.status_code == 200
    ours = {result["index"]: result["relevance_score"] for result in reply.json()["results"]}
    theirs = load_source(bert).reference([("how do bees find home", document) for document in documents])
    assert [ours[index] for index in range(40)] == pytest.approx(theirs.tolist(), abs=1e-3)


def test_request_id_is_the_same_in_reply_and_both_logs(stack):
    reply = stack.rerank(headers={"X-Request-Id": "find-me-7"})
    assert reply.headers["X-Request-Id"] == "find-me-7"
    for program in ("webapp", "nginx"):
        wait_for(lambda p=program: any("find-me-7" in str(line) for line in _json_lines(stack, p)), f"{program}'s log")


def _json_lines(stack, program):
    path = stack.state_dir / "log" / f"{stack.program(program)}.log"
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def test_every_line_of_the_webapps_log_is_json_of_one_shape_and_holds_no_text(stack):
    assert stack.rerank(["planted secret document"], body={"query": "planted secret query"}).status_code == 200
    requests.post(f"{stack.url}/rerank", data=b'{"query": "planted secret", "documents": 3}', timeout=PATIENCE_S)
    wait_for(lambda: sum(line["message"] == "request" for line in stack.log_lines("webapp")) >= 2, "access lines")
    for line in stack.log_lines("webapp"):
        assert {"time", "level", "service", "pid", "logger", "message"} <= set(line)
        assert line["time"].endswith("Z")
    for path in (stack.state_dir / "log").iterdir():
        assert "planted" not in path.read_text(), path


def test_no_serving_process_has_torch(stack):
    for process in [psutil.Process(stack.process.pid), *stack.family()]:
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        assert "torch" not in maps, process.cmdline()


def test_the_master_computes_nothing_and_workers_share_the_weights(stack):
    def mapped(pid):
        return [line for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if line.endswith("model.bin")]

    assert mapped(stack.pid_of("webapp"))
    assert mapped(stack.workers()[0])


@pytest.mark.slow
def test_small_requests_and_probes_pass_while_a_large_one_is_scored(stack):
    large_done = threading.Event()

    def large():
        reply = stack.rerank([f"{n} " + "bees find home " * 60 for n in range(6000)])
        large_done.set()
        return reply

    with ThreadPoolExecutor() as pool:
        running = pool.submit(large)
        wait_for(
            lambda: requests.get(f"{stack.url}/info", timeout=PATIENCE_S).json()["ongoing_requests"],
            "the large one begins",
        )
        passed = 0
        while not large_done.is_set():
            assert requests.get(f"{stack.url}/health", timeout=PATIENCE_S).status_code == 200
            assert stack.rerank().status_code == 200
            passed += 1
        assert running.result().status_code == 200
    assert passed >= 3


def test_nginx_refuses_a_body_over_the_limit_in_json(stack):
    reply = requests.post(f"{stack.url}/rerank", data=b" " * (33 * 1024 * 1024), timeout=PATIENCE_S)
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "payload_too_large")
    assert reply.json()["request_id"] == reply.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Header\x01: y\r\n\r\n", 400),
        (b"\x16\x03\x01no TLS here\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST /rerank HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: odd\r\n\r\n", 501),
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /.refused/400 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
    ],
)
def test_what_nginx_refuses_is_refused_in_json(stack, sent, status):
    with stack.raw() as connection:
        connection.sendall(sent)
        answer = connection.makefile("rb").read()
    assert f" {status} ".encode() in answer.splitlines()[0]
    error = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert error["status"] == error["code"] == status
    assert isinstance(error["error"]["code"], str)
    assert error["detail"] == error["message"] == error["error"]["message"]


def big_body():
    documents = [f"{number} " + "milk stays fresh " * 3000 for number in range(200)]
    body = json.dumps({"query": "milk", "documents": documents}).encode()
    assert len(body) > 10_000_000
    return body


def test_a_chunked_upload_of_ten_megabytes_is_answered(stack):
    body = big_body()
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=PATIENCE_S)
    connection.request(
        "POST",
        "/rerank",
        (body[at : at + 65_536] for at in range(0, len(body), 65_536)),
        encode_chunked=True,
        headers={"Transfer-Encoding": "chunked"},
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_a_client_that_expects_100_continue_gets_it_at_once(stack, tmp_path):
    (tmp_path / "body.json").write_bytes(big_body())
    command = ["curl", "-s", "-v", "-H", "Expect: 100-continue", "--expect100-timeout", str(PATIENCE_S)]
    outcome = subprocess.run(
        [*command, "--data-binary", f"@{tmp_path / 'body.json'}", f"{stack.url}/rerank"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert "100 Continue" in outcome.stderr
    assert json.loads(outcome.stdout)["results"]
    assert "waiting for 100-continue" not in outcome.stderr, "curl waited for the 100 in vain"


def test_slow_clients_hold_no_worker(stack):
    slow = [stack.raw() for _ in range(50)]
    for connection in slow:
        connection.sendall(b"POST /rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    for _ in range(10):
        for connection in slow:
            connection.sendall(b" ")
        assert stack.rerank().status_code == 200
    assert requests.get(f"{stack.url}/info", timeout=PATIENCE_S).json()["ongoing_requests"] == 0
    worker = psutil.Process(stack.workers()[0])
    assert len(worker.net_connections(kind="unix")) < 40, "nginx keeps unfinished uploads to itself"
    for connection in slow:
        connection.close()


def test_supervisorctl_shows_and_restarts_programs(stack):
    wait_for(lambda: stack.supervisorctl("status").count("RUNNING") == 4, "all four count as started")
    before = stack.pid_of("webapp")
    assert ": started" in stack.supervisorctl("restart", "webapp")
    assert stack.pid_of("webapp") != before
    wait_for(lambda: stack.rerank().status_code == 200, "reranks after the restart")


def test_the_state_directory_is_private(stack):
    assert (stack.state_dir / "run").stat().st_mode & 0o077 == 0
    assert (stack.state_dir / "log").stat().st_mode & 0o077 == 0
