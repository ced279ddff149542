"""Limits counted in a real Redis, and what they cost when it is gone, or stands still."""

import os
import shutil
import signal
import subprocess

import pytest
import redis
from running import free_port, wait_for

from webapp.domain.errors import RateLimitedError
from webapp.servers.gunicorn.bridge import GeventBridge
from webapp.service import rate_limit as quotas
from webapp.service.rate_limit import CountsInRedis, Quota

REDIS = shutil.which("redis-server")

pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")

WAIT_S = 1.0
"""Instead of 10 ms, which a busy machine takes as well."""


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    monkeypatch.setattr(quotas, "REDIS_WAIT_S", WAIT_S)


class Server:
    """A Redis of our own on a free port."""

    def __init__(self, folder):
        self._folder = folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.start()

    def start(self):
        options = ["--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([REDIS, *options], stdout=subprocess.DEVNULL)
        wait_for(self._answers, "redis answers")

    def _answers(self):
        try:
            return redis.Redis.from_url(self.url).ping()
        except redis.ConnectionError:
            return False

    def signal(self, number):
        os.kill(self._process.pid, number)

    def kill(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path):
    running = Server(tmp_path)
    yield running
    running.kill()


def refused(quota):
    """Seconds after which the caller may try again; 0 when it was let in."""
    try:
        quota.take("requests", "a")
    except RateLimitedError as error:
        return error.retry_after_s
    return 0


def test_workers_share_their_counts_and_go_on_alone_when_redis_is_gone_and_together_when_it_is_back(server):
    clock = [0.0]
    workers = [
        Quota(
            requests_per_minute=4,
            shared=CountsInRedis(server.url, wait_s=WAIT_S),
            within=GeventBridge().within,
            clock=lambda: clock[0],
        )
        for _ in range(2)
    ]
    assert [refused(workers[number % 2]) for number in range(4)] == [0] * 4
    assert all(0 < refused(worker) <= 120 for worker in workers)
    server.kill()
    assert [refused(workers[0]) for _ in range(4)] == [0] * 4
    assert refused(workers[0]) > 0
    server.start()
    clock[0] += 10
    assert refused(workers[0]) == 0  # a new Redis knows nothing of before
    assert [refused(workers[0]) for _ in range(3)] == [0] * 3
    assert refused(workers[0]) > 0


def test_a_redis_that_stands_still_costs_one_request_a_moment_and_the_others_nothing(server, monkeypatch):
    monkeypatch.setattr(quotas, "REDIS_REST_S", 3600)
    asked = []

    def counted(seconds, run):
        asked.append(seconds)
        return GeventBridge().within(seconds, run)

    quota = Quota(requests_per_minute=1000, shared=CountsInRedis(server.url, wait_s=WAIT_S), within=counted)
    refused(quota)
    asked.clear()
    server.signal(signal.SIGSTOP)
    try:
        waits = [refused(quota) for _ in range(50)]
    finally:
        server.signal(signal.SIGCONT)
    assert waits == [0] * 50
    assert asked == [WAIT_S], "the others counted in memory"
