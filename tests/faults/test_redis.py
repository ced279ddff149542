"""Redis shared, full, stopped, dead, back, and with another password: no request may notice."""

import itertools
import os
import signal

import pytest
from redis_kit import Redis
from running import PATIENCE_S, Stack, wait_for

pytestmark = pytest.mark.slow

_numbers = itertools.count()


def new_pairs(stack, count=8):
    """Requests of pairs that nobody has scored; returns how long the service took for each, in ms."""
    took = []
    for _ in range(count):
        documents = [{"content": f"document {next(_numbers)}"} for _ in range(5)]
        reply = stack.rerank(documents, body={"return_documents": False})
        assert reply.status_code == 200
        took.append(reply.json()["latency_ms"])
    return took


def breaker_states(stack, what):
    """The states that the breaker of lookups or writes went to."""
    return [line["state"] for line in stack.log_lines("webapp") if line.get("what") == what]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A Redis, and a stack that uses it."""
    with Redis() as redis, Stack(tmp_path_factory.mktemp("redis") / "own", engine="stub", redis_url=redis.url) as stack:
        yield redis, stack


def access_line(stack, request_id):
    lines = [line for line in stack.log_lines("webapp") if line["request_id"] == request_id]
    return next((line for line in lines if line["logger"] == "webapp.access"), None)


def test_a_worker_finds_what_another_one_has_scored(together):
    redis, stack = together
    (first,) = stack.workers()
    assert stack.rerank(headers={"X-Request-Id": "first"}).status_code == 200
    assert wait_for(lambda: access_line(stack, "first"), "its line")["cached"] == 0
    wait_for(lambda: int(redis.command("dbsize")) >= 2, "the scores are written")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: stack.workers() not in ([], [first]), "another worker")

    wait_for(
        lambda: any(line["pid"] != first and "Redis shares" in line["message"] for line in stack.log_lines("webapp")),
        "it has connected",
    )
    assert stack.rerank(headers={"X-Request-Id": "second"}).status_code == 200
    line = wait_for(lambda: access_line(stack, "second"), "its line")
    assert line["pid"] != first
    assert line["cached"] == 2


def test_whatever_happens_to_redis_requests_are_answered(together):
    redis, stack = together
    new_pairs(stack)
    wait_for(lambda: redis.command("dbsize").strip() not in {"", "0"}, "scores are written")

    redis.command("config", "set", "maxmemory", "1")
    new_pairs(stack)
    wait_for(lambda: "open" in breaker_states(stack, "writes"), "writing is left alone")
    assert breaker_states(stack, "lookups") == []
    redis.command("config", "set", "maxmemory", "0")

    redis.stop()
    new_pairs(stack)  # each is answered although Redis stands still
    wait_for(lambda: breaker_states(stack, "lookups") == ["open"], "looking is left alone")
    redis.go_on()
    wait_for(lambda: new_pairs(stack, 1) and breaker_states(stack, "lookups")[-1] == "closed", "it is asked again")

    redis.kill()
    new_pairs(stack)
    wait_for(lambda: new_pairs(stack, 1) and breaker_states(stack, "lookups")[-1] == "open", "it is missed")
    redis.start()
    wait_for(lambda: new_pairs(stack, 1) and breaker_states(stack, "lookups")[-1] == "closed", "it is found again")


def test_a_wrong_password_costs_a_line_in_the_log_and_is_in_none(tmp_path):
    with Redis(password="right") as redis:
        url = redis.url.replace("redis://", "redis://:planted@")
        with Stack(tmp_path / "own", engine="stub", redis_url=url) as stack:
            new_pairs(stack)
            wait_for(
                lambda: any(line.get("error") == "AuthenticationError" for line in stack.log_lines("webapp")),
                "the log says why",
            )
        for path in (stack.state_dir / "log").iterdir():
            assert "planted" not in path.read_text(), path


def test_a_wrong_address_is_one_line_that_does_not_quote_it(tmp_path):
    stack = Stack(tmp_path / "own", engine="stub", redis_url="http://:planted@nowhere")
    stack.begin()
    assert stack.process.wait(PATIENCE_S) == 1
    said = (stack.state_dir / "serve.out").read_text()
    assert "RERANK_REDIS_URL must begin with redis://" in said
    assert "planted" not in said
