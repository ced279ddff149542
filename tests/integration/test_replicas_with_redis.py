"""Two replicas on asyncio loops share what they know through a real Redis, and go on without it."""

import asyncio
import json
import time

import pytest
from asgi_kit import PATIENCE_S, body_of, receives, run, scope_of
from redis_kit import Redis

from webapp.servers.ray.replica import Replica


@pytest.fixture
def settings(monkeypatch, tmp_path):
    monkeypatch.setenv("RERANK_ENGINE", "stub")
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(
        "webapp.service.rate_limit.REDIS_WAIT_S", 5.0
    )  # a busy machine may be late, and then each counts for itself
    with Redis() as redis:
        yield redis, {"redis_url": redis.url, "requests_per_minute": 8}


async def asked(replica):
    reply = await replica.answer(scope_of(), receives(body_of()))
    return reply.status, json.loads(reply.body)


async def holds(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a server says no word when it has something
            await asyncio.sleep(0.01)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:redis")
def test_what_one_scored_the_other_knows_and_both_count_together(settings):
    redis, changes = settings

    async def main():
        one, other = Replica(engine_threads=1), Replica(engine_threads=1)
        for replica in (one, other):
            await replica.configure(changes)
            await holds(lambda each=replica: each._serving.webapp.shared._store is not None)
        minute = time.time() // 60
        status, first = await asked(one)
        assert status == 200
        count = "return #redis.call('keys', 'rerank:2:*')"
        await holds(lambda: redis.command("eval", count, "0").strip() == "3")
        assert (await asked(other))[1]["results"] == first["results"]
        assert other._serving.webapp.scheduler.totals.pairs == 2, "the warm-up alone"
        counted = [(await asked(replica))[0] for replica in (one, other) * 4]
        if time.time() // 60 == minute:  # the count begins anew with each
            assert counted.count(200) == 6
            assert set(counted) == {200, 429}
        redis.kill()
        assert (await asked(one))[0] == 200, "each counts for itself"
        await asyncio.gather(one.leave(), other.leave())

    run(main())
