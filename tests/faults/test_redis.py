"""Redis shared, full, stopped, dead, back, and with another password: no request may notice."""

import itertools

import pytest
from redis_kit import Redis
from running import Stack, wait_for

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


def told(stack, what):
    """The states that the breaker of lookups or writes went to."""
    return [line["state"] for line in stack.log_lines("webapp") if line.get("what") == what]


def worker_of(stack, request_id):
    lines = [line for line in stack.log_lines("webapp") if line["request_id"] == request_id]
    return next(((line["pid"], line["cached"]) for line in lines if line["logger"] == "webapp.access"), None)


def test_workers_share_scores(tmp_path):
    with Redis() as redis, Stack(tmp_path / "own", engine="stub", workers="2", redis_url=redis.url) as stack:
        cached = {}

        def both_were_asked():
            name = f"shared-{next(_numbers)}"
            assert stack.rerank(headers={"X-Request-Id": name, "Connection": "close"}).status_code == 200
            pid, hits = wait_for(lambda: worker_of(stack, name), "the access line")
            cached.setdefault(pid, hits)
            return len(cached) == 2

        # The first of the second worker's requests finds what the first worker has scored.
        for number in range(200):
            if both_were_asked():
                break
            new_pairs(stack, 1 + number % 3)
        if len(cached) < 2:
            pytest.skip("one worker took every request")
        assert list(cached.values()) == [0, 2]


def test_whatever_happens_to_redis_requests_are_answered(tmp_path):
    with Redis() as redis, Stack(tmp_path / "own", engine="stub", redis_url=redis.url) as stack:
        new_pairs(stack)
        wait_for(lambda: redis.command("dbsize").strip() not in {"", "0"}, "scores are written")

        redis.command("config", "set", "maxmemory", "1")
        new_pairs(stack)
        wait_for(lambda: "open" in told(stack, "writes"), "writing is left alone")
        assert told(stack, "lookups") == []
        redis.command("config", "set", "maxmemory", "0")

        redis.stop()
        took = new_pairs(stack)
        assert sorted(took)[len(took) // 2] < 100, took  # 12 ms and what a busy machine adds
        wait_for(lambda: told(stack, "lookups") == ["open"], "looking is left alone")
        redis.go_on()
        wait_for(lambda: new_pairs(stack, 1) and told(stack, "lookups")[-1] == "closed", "it is asked again")

        redis.kill()
        new_pairs(stack)
        wait_for(lambda: new_pairs(stack, 1) and told(stack, "lookups")[-1] == "open", "it is missed")
        redis.start()
        wait_for(lambda: new_pairs(stack, 1) and told(stack, "lookups")[-1] == "closed", "it is found again")


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
    assert stack.process.wait(60) == 1
    said = (stack.state_dir / "serve.out").read_text()
    assert "RERANK_REDIS_URL: begins with redis://" in said
    assert "planted" not in said
