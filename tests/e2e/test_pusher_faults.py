"""What the pusher suffers, no rerank feels."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import requests
from running import PATIENCE_S, Stack, stopped, wait_for


def events_heard(stack):
    try:
        reply = requests.get(f"{stack.url}/progress", timeout=PATIENCE_S)
        return reply.json()["events"] if reply.status_code == 200 else 0
    except requests.ConnectionError:
        return 0


def rerank_200(stack, during):
    """Make 200 requests, with `during` called in the middle."""
    documents = [f"bees find home by the sun {n}" for n in range(20)]
    session = requests.Session()
    for number in range(200):
        if number == 50:
            during()
        body = {"query": f"{time.monotonic()}", "documents": documents}
        reply = session.post(f"{stack.url}/rerank", json=body, timeout=PATIENCE_S)
        assert reply.status_code == 200


@pytest.mark.slow
def test_kill_9_of_the_pusher_costs_200_reranks_nothing_and_it_comes_back(own_stack):
    with own_stack as stack:
        rerank_200(stack, lambda: None)
        killed = stack.pid_of("pusher")
        rerank_200(stack, lambda: os.kill(killed, signal.SIGKILL))
        wait_for(lambda: stack.pid_of("pusher") not in {None, killed}, "supervisor starts it again")
        wait_for(lambda: events_heard(stack), "workers connected again")


@pytest.mark.slow
def test_requests_are_answered_while_there_is_no_pusher_where_the_settings_say(tmp_path):
    """Neither its name nor its port is there, when the stack starts and later."""
    elsewhere = "no.such.host.invalid"
    stack = Stack(
        tmp_path / "s",
        engine="stub",
        pusher_url=f"http://{elsewhere}:8081",
        events_endpoint=f"tcp://{elsewhere}:5557",
        events_key="k" * 32,
    )
    with stack:
        for _ in range(20):
            assert stack.rerank().status_code == 200
        for path in ("/progress", "/progress/x", "/socket.io/?EIO=4&transport=polling"):
            reply = requests.get(f"{stack.url}{path}", timeout=PATIENCE_S)
            assert (reply.status_code, reply.headers["Retry-After"]) == (503, "1")
            assert "does not answer" in reply.json()["message"]
        assert requests.get(f"{stack.url}/dashboard/", timeout=PATIENCE_S).status_code == 200
        assert f"http://{elsewhere}:8081 does not answer" in status_of(stack)["troubles"]


@pytest.fixture(scope="module")
def harmed(tmp_path_factory):
    """A stack whose programs tests may harm; each leaves it serving."""
    with Stack(tmp_path_factory.mktemp("harmed"), engine="stub") as running:
        yield running


@pytest.mark.slow
def test_operators_see_workers_drain_and_die(harmed):
    import socketio

    told = []  # not the states that rows show: a watcher sees two of them within a tick as one
    client = socketio.Client(reconnection=False)
    client.on("snapshot", lambda snapshot: told.extend(event["what"] for event in snapshot["events"]))
    client.on("delta", lambda delta: told.extend(event["what"] for event in delta.get("events", [])))
    client.connect(harmed.url, transports=["websocket"])
    client.call("watch")
    wait_for(lambda: "ready" in told, "a ready worker")
    harmed.supervisorctl("restart", "webapp")
    wait_for(lambda: {"draining", "down"} <= set(told), "it drained and went down")
    wait_for(lambda: told.count("ready") > 1, "the next one is ready")
    client.disconnect()


BESIDE = ("/progress", "/progress/x", "/socket.io/?EIO=4&transport=polling", "/metrics")


@pytest.mark.slow
def test_a_pusher_and_an_exporter_that_hang_are_refused_for_and_rerank_goes_on(harmed):
    pusher, exporter = harmed.pid_of("pusher"), harmed.pid_of("metrics")
    follower = requests.get(f"{harmed.url}/progress/followed", stream=True, timeout=PATIENCE_S)
    with stopped(pusher), closing(follower):
        figures = requests.get(f"{harmed.url}/metrics", timeout=PATIENCE_S)
        assert figures.status_code == 200
        assert "rerank_pusher_up 0" in figures.text
        with stopped(exporter), ThreadPoolExecutor(len(BESIDE)) as pool:
            replies = list(pool.map(lambda path: requests.get(f"{harmed.url}{path}", timeout=PATIENCE_S), BESIDE))
            for reply in replies:
                assert reply.status_code == 503
                assert reply.json()["error"]["code"] == "unavailable"
                assert "does not answer" in reply.json()["message"]
                assert reply.headers["Retry-After"] == "1"
            with pytest.raises(requests.RequestException):
                follower.content  # noqa: B018 - reads to the end, which nginx makes
            assert harmed.rerank().status_code == 200
            assert requests.get(f"{harmed.url}/ready", timeout=PATIENCE_S).status_code == 200
            assert requests.get(f"{harmed.url}/dashboard/", timeout=PATIENCE_S).status_code == 200
            said = status_of(harmed)
            assert said["health"] == "impaired"
            assert {"pusher does not answer", "metrics does not answer"} <= set(said["troubles"])
    for path in BESIDE[0], BESIDE[3]:
        wait_for(lambda path=path: requests.get(f"{harmed.url}{path}", timeout=PATIENCE_S).ok, "it answers again")


def status_of(stack):
    command = [sys.executable, "-m", "webapp", "status", "--json"]
    said = subprocess.run(command, env=stack._environment, capture_output=True, text=True, check=False)
    return json.loads(said.stdout)


@pytest.mark.slow
def test_events_can_be_turned_off(tmp_path):
    with Stack(tmp_path / "s", engine="stub", events="false") as stack:
        assert stack.rerank().status_code == 200
        page = f"{stack.url}/dashboard/"
        wait_for(lambda: requests.get(page, timeout=PATIENCE_S).status_code == 200, "the pusher has started")
        assert events_heard(stack) == 0
