"""Traffic of every kind, then every line of every log."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

from contracts.logging.line import FIRST, MOST_BYTES

FAULTY = str(Path(__file__).parents[1] / "services" / "faulty")

SECRET = "planted"  # noqa: S105 - only a word to look for
"""In every text, key and address that is sent here."""

KEY = f"{SECRET}-key"

pytestmark = pytest.mark.slow


def kept_lines(stack):
    """Every line of every file, by program."""
    lines = {}
    for path in (stack.state_dir / "log").iterdir():
        raw = path.read_bytes().splitlines()
        assert all(len(line) < MOST_BYTES for line in raw), path
        lines[path.stem.removesuffix("-green")] = [json.loads(line) for line in raw]
    return lines


def ask(stack, query=f"{SECRET} query", documents=(f"{SECRET} one", f"{SECRET} two"), **options):
    headers = {"X-Api-Key": KEY, **options.pop("headers", {})}
    body = {"query": query, "documents": [{"content": document} for document in documents]}
    return requests.post(f"{stack.url}/rerank", json=body, headers=headers, timeout=PATIENCE_S, **options)


def say(stack, raw):
    """Bytes to nginx, whatever they are, and goodbye without waiting for more than the first of an answer."""
    with stack.raw() as connection, contextlib.suppress(OSError):
        connection.sendall(raw)
        connection.settimeout(0.2)
        connection.recv(100)


def make_traffic(stack):
    url, headers = stack.url, {"X-Api-Key": KEY}
    wait_for(lambda: _hears_events(url, headers), "the pusher hears of the worker")
    assert ask(stack, headers={"X-Request-Id": "find-me"}).status_code == 200
    assert '"status":"ok"' in requests.get(f"{url}/progress/find-me", headers=headers, timeout=PATIENCE_S).text
    for query in ("raise", "nan", "length"):  # what is raised quotes the documents
        assert ask(stack, query, headers={"X-Request-Id": f"failed-{query}"}).status_code == 500
    for body in (
        f'{{"query": "{SECRET}", "documents": 3}}',
        f'{{"query": "{SECRET}',
        f'{{"query": "\\ud800{SECRET}", "documents": ["\\udfff{SECRET}"]}}',
        "[" * 50_000 + SECRET,
        b"\xff" + SECRET.encode(),
    ):
        requests.post(f"{url}/rerank", data=body, headers=headers, timeout=PATIENCE_S)
    refused = requests.post(f"{url}/rerank", json={}, headers={"X-Api-Key": f"{SECRET}-wrong"}, timeout=PATIENCE_S)
    assert refused.status_code == 401
    requests.get(f"{url}/nowhere?api_key={SECRET}", headers=headers, timeout=PATIENCE_S)
    requests.get(f"{url}/dashboard/nowhere?q={SECRET}", headers=headers, timeout=PATIENCE_S)
    requests.get(f"{url}/%ff%01%22\N{HONEYBEE}" + "x" * 5000, headers=headers, timeout=PATIENCE_S)
    head = f"POST /rerank?q={SECRET} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
    say(stack, f"{head}Content-Length: 999999999999\r\n\r\n{SECRET}".encode())
    say(stack, f"{head}Content-Length: 1000\r\n\r\n{SECRET}".encode())
    say(stack, f"{SECRET} {SECRET}\r\n{SECRET}\r\n\r\n".encode())
    say(stack, b"\x16\x03\x01" + SECRET.encode())
    slow = json.dumps({"query": "slow", "documents": [SECRET]})
    say(stack, f"{head}Content-Length: {len(slow)}\r\n\r\n{slow}".encode())  # leaves before the answer


def test_every_line_of_every_log_has_one_shape_and_holds_no_text_and_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", FAULTY)
    with Stack(tmp_path / "own", engine="stub", api_keys=KEY, color="green") as stack:
        make_traffic(stack)
        os.kill(stack.workers()[0], signal.SIGKILL)
        for program in ("pusher", "nginx"):
            before = stack.pid_of(program)
            os.kill(before, signal.SIGKILL)
            wait_for(lambda b=before, p=program: stack.pid_of(p) not in {None, b}, f"another {program}")
        wait_for(lambda: _answers(stack), "it serves again")
        make_traffic(stack)
    lines = kept_lines(stack)
    assert set(lines) >= {"webapp", "pusher", "nginx", "supervisord"}
    for program in lines.values():
        for line in program:
            assert list(line)[: len(FIRST)] == list(FIRST), line
            assert line["color"] == "green"
            assert line["time"][10] == "T"
            assert line["time"].endswith("Z")
            assert line["pid"] > 0
    for name in ("webapp", "nginx", "pusher"):
        found = [line for line in lines[name] if line["request_id"] == "find-me"]
        assert {line["service"] for line in found} == {name}
    found = [line for line in lines["webapp"] if line["request_id"] == "find-me"]
    access = next(line for line in found if line["logger"] == "webapp.access")
    assert (access["status"], access["dialect"], access["documents"]) == (200, "native", 2)
    assert {"tokens", "cached", "duration_ms"} <= set(access)
    failed = next(line for line in lines["webapp"] if line["request_id"] == "failed-raise" and "exception" in line)
    assert "RuntimeError" in failed["exception"]
    assert any(line["logger"] == "nginx.error" and "too large body" in line["message"] for line in lines["nginx"])
    for path in (stack.state_dir / "log").iterdir():
        assert SECRET not in path.read_text(), path


def test_access_lines_of_every_program_have_level_code_and_duration(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", FAULTY)
    with Stack(tmp_path / "own", engine="stub", api_keys=KEY, log_level="info") as stack:
        url = stack.url

        def post(request_id, path="/rerank", **options):
            headers = {"X-Api-Key": KEY, "X-Request-Id": request_id, **options.pop("headers", {})}
            return requests.post(f"{url}{path}", headers=headers, timeout=PATIENCE_S, **options).status_code

        good = {"query": "q", "documents": ["a", "b"]}
        assert post("good", json=good) == 200
        assert post("field", json={**good, "top_k": "x"}) == 400
        assert post("fails", json={**good, "query": "raise"}) == 500
        assert post("tei", "/predict", json={"inputs": [["raise", "a"]]}) == 424
        assert post("key", json=good, headers={"X-Api-Key": "wrong"}) == 401
        assert post("large", data=b"x" * (33 * 1024 * 1024)) == 413
        assert (
            requests.get(f"{url}/progress/x", headers={"X-Request-Id": "pusher"}, timeout=PATIENCE_S).status_code == 401
        )
        go_on = tmp_path / "go-on"
        asked = json.dumps({"query": f"until {go_on}", "documents": ["a"]})
        head = f"POST /rerank HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nX-Request-Id: leaves\r\n"
        with stack.raw() as connection:
            connection.sendall(f"{head}Content-Length: {len(asked)}\r\n\r\n{asked}".encode())
            wait_for(go_on.with_suffix(".began").exists, "it is scored")
        wait_for(lambda: _access(stack, "webapp", "leaves"), "it is noticed that the client left")
        go_on.touch()
        stack.supervisorctl("stop", "webapp")
        wait_for(lambda: requests.get(f"{url}/info", timeout=PATIENCE_S).status_code == 503, "the door is closed")
        assert post("away", json=good) == 503
    nginx = {
        name: _access(stack, "nginx", name) for name in "good field fails tei key large pusher leaves away".split()
    }
    assert {name: line["level"] for name, line in nginx.items()} == {
        "good": "info",
        **dict.fromkeys(["field", "key", "large", "pusher", "away"], "warning"),
        **dict.fromkeys(["fails", "tei"], "error"),
        "leaves": "info",
    }
    assert {name: line["code"] for name, line in nginx.items() if line["code"]} == {
        "large": "payload_too_large",
        "away": "unavailable",
    }, "the others' codes are in the lines of the programs that answered"
    webapp = {name: _access(stack, "webapp", name) for name in ("good", "field", "fails", "tei", "key", "leaves")}
    assert {name: line["level"] for name, line in webapp.items()} == {name: nginx[name]["level"] for name in webapp}
    said = {name: (line.get("code"), line.get("field")) for name, line in webapp.items()}
    assert said["good"] == (None, None)
    assert said["field"] == ("invalid_request", "top_k")
    assert {said[name][0] for name in ("fails", "tei")} == {"engine_failed"}
    assert (said["key"][0], said["leaves"][0]) == ("unauthorized", "cancelled")
    assert _access(stack, "pusher", "pusher")["level"] == "warning"
    lines = [line for program in ("webapp", "nginx", "pusher") for line in stack.log_lines(program)]
    for line in lines:
        if line["message"] == "request":
            assert isinstance(line["duration_ms"], (int, float)), line
            assert not {"duration_s", "upstream_s"} & set(line)
    assert all(isinstance(nginx[name]["upstream_ms"], int) for name in ("good", "field", "fails"))
    # nginx takes the two times from clocks that it brings up to date at different moments.
    assert nginx["good"]["upstream_ms"] <= nginx["good"]["duration_ms"] + 1
    assert nginx["large"]["upstream_ms"] is None, "nobody was asked"
    assert [line for line in lines if line["level"] == "critical"] == []


def _access(stack, program, request_id):
    lines = [line for line in stack.log_lines(program) if line["message"] == "request"]
    return next((line for line in lines if line["request_id"] == request_id), None)


def _hears_events(url, headers):
    with contextlib.suppress(requests.ConnectionError):  # a killed nginx' workers may answer last
        reply = requests.get(f"{url}/progress", headers=headers, timeout=PATIENCE_S)
        return reply.ok and reply.json()["events"]


def _answers(stack):
    with contextlib.suppress(requests.ConnectionError):
        return ask(stack).status_code == 200
