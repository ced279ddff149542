"""`reranking balance` before two stacks, all on this machine."""

import http.client
import json
import signal
import subprocess
import sys

import pytest
import requests
from running import PATIENCE_S, Stack, free_port, wait_for

pytestmark = pytest.mark.slow

KEY = {"X-Api-Key": "the-key"}
BODY = {"query": "q", "documents": ["a", "b"]}


def stub(folder, **options):
    return Stack(folder, engine="stub", log_level="info", balancers="127.0.0.1", **options)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory):
    with (
        stub(tmp_path_factory.mktemp("one"), api_keys=KEY["X-Api-Key"], cors_origins="https://app.example") as one,
        stub(tmp_path_factory.mktemp("two"), api_keys=KEY["X-Api-Key"], cors_origins="https://app.example") as two,
    ):
        yield one, two


@pytest.fixture(scope="module")
def balancer(stacks, make_balancer):
    with make_balancer(stacks) as running:
        yield running


def post(url, headers=(), **options):
    return requests.post(f"{url}/rerank", json=BODY, headers={**KEY, **dict(headers)}, timeout=PATIENCE_S, **options)


def asked(stack):
    return sum(line.get("path") == "/rerank" for line in stack.log_lines("webapp"))


def test_requests_are_divided_over_the_stacks_with_key_and_id(stacks, balancer):
    before = [asked(stack) for stack in stacks]
    for number in range(20):
        reply = post(balancer.url, {"X-Request-Id": f"divided-{number}"})
        assert (reply.status_code, reply.headers["X-Request-Id"]) == (200, f"divided-{number}")
    assert requests.post(f"{balancer.url}/rerank", json=BODY, timeout=PATIENCE_S).status_code == 401
    gained = wait_for(
        lambda: (
            (now := [asked(stack) - was for stack, was in zip(stacks, before, strict=True)]) and sum(now) > 20 and now
        ),
        "the lines of all requests",
    )
    assert min(gained) > 0
    ids = {line["request_id"] for stack in stacks for line in stack.log_lines("webapp") if "request_id" in line}
    assert {f"divided-{number}" for number in range(20)} <= ids
    upstreams = {line["upstream"] for line in balancer.lines() if line["request_id"].startswith("divided")}
    assert upstreams == {f"127.0.0.1:{stack.port}" for stack in stacks}


def test_only_the_balancer_may_name_a_caller_s_address(stacks, balancer):
    claim = {**KEY, "X-Forwarded-For": "10.9.9.9"}
    for number, (door, source) in enumerate([(balancer, "127.0.0.2"), (stacks[0], "127.0.0.3")]):
        connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=PATIENCE_S, source_address=(source, 0))
        connection.request("POST", "/rerank", json.dumps(BODY), {**claim, "X-Request-Id": f"from-{number}"})
        assert connection.getresponse().status == 200
        connection.close()

    def seen(request_id):
        lines = [line for stack in stacks for line in stack.log_lines("nginx")]
        return [line["remote"] for line in lines if line.get("request_id") == request_id]

    assert wait_for(lambda: seen("from-0"), "the line") == ["127.0.0.2"]
    assert wait_for(lambda: seen("from-1"), "the line") == ["127.0.0.3"]


@pytest.mark.parametrize("header", ["Content-Security-Policy", "X-Content-Type-Options", "Access-Control-Allow-Origin"])
def test_headers_of_a_stack_arrive_once(balancer, header):
    reply = post(balancer.url, {"Origin": "https://app.example"}, stream=True)
    assert len(reply.raw.headers.getlist(header)) == 1


@pytest.mark.parametrize("path", ["/dashboard", "/progress/x", "/metrics", "/socket.io/"])
def test_the_balancer_does_not_serve_pages_of_a_single_machine(balancer, path):
    reply = requests.get(balancer.url + path, timeout=PATIENCE_S)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


def test_a_refusal_is_passed_on_as_the_stack_said_it(balancer):
    reply = post(balancer.url, {"X-Request-Timeout": "nonsense"})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request")


def test_settings_are_read_again_at_hup_and_wrong_ones_are_not_taken(stacks, make_balancer, tmp_path):
    file = tmp_path / "balancer.yaml"
    running = make_balancer(stacks[:1])
    running._environment["RERANK_CONFIG"] = str(file)
    del running._environment["RERANK_STACKS"]
    file.write_text(f"stacks: ['{stacks[0].url}']\n")
    with running:
        for text, said in [
            (f"stacks: ['{stacks[1].url}']\n", "Balancing over"),
            ("stacks: [nonsense]\n", "stay as they were"),
        ]:
            file.write_text(text)
            running.process.send_signal(signal.SIGHUP)
            wait_for(lambda said=said: said in running._output.read_text(), said)
        other = f"127.0.0.1:{stacks[1].port}"
        wait_for(
            lambda: post(running.url) and any(line["upstream"] == other for line in running.lines()),
            "the other stack is asked",
        )


def test_without_stacks_it_does_not_start_and_says_why(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "webapp", "balance", "--state-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (
        1,
        "reranking: RERANK_STACKS names no stack to divide requests over",
    )


def test_it_is_ready_while_any_stack_is_and_answers_with_an_error_when_none_is(make_balancer, tmp_path):
    one, two = (stub(tmp_path / name) for name in ("one", "two"))
    one.start()
    two.start()

    def ready():
        return requests.get(f"{running.url}/ready", timeout=PATIENCE_S).status_code

    with make_balancer([one, two]) as running:
        assert ready() == 200
        one.stop()
        assert [ready() for _ in range(4)] == [200] * 4
        assert [post(running.url).status_code for _ in range(8)] == [200] * 8
        two.stop()
        assert ready() == 503
        reply = post(running.url)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], reply.headers["Retry-After"]) == (503, "unavailable", "1")
        two.start()
        wait_for(lambda: post(running.url).status_code == 200, "the stack is tried again")
        two.stop()


def test_tls_ends_at_the_balancer_and_begins_again_to_stacks_that_it_trusts(make_balancer, tmp_path):
    secure = [stub(tmp_path / name, tls="self-signed") for name in ("one", "two")]
    for stack in secure:
        stack.url = f"https://localhost:{stack.port}"
        stack.start()
    trusted, others = tmp_path / "stacks.pem", tmp_path / "others.pem"
    trusted.write_text("".join((stack.state_dir / "tls" / "cert.pem").read_text() for stack in secure))
    plain_port = free_port()
    with make_balancer(secure, stacks_ca=str(trusted), tls="self-signed", plain_port=str(plain_port)) as running:
        cert = str(running.state_dir / "tls" / "cert.pem")
        url = running.url.replace("http:", "https:")
        assert [post(url, verify=cert).status_code for _ in range(8)] == [200] * 8
        assert {line["upstream_status"] for line in running.lines()} == {"200"}
        moved = requests.post(f"http://127.0.0.1:{plain_port}/rerank", allow_redirects=False, timeout=PATIENCE_S)
        assert moved.status_code == 308
        others.write_text((running.state_dir / "tls" / "cert.pem").read_text())
    with make_balancer(secure, stacks_ca=str(others)) as running:
        assert post(running.url).status_code == 503
    for stack in secure:
        stack.stop()
