"""The followers of docs/progress.md, as they stand there."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import socketio
from browsing import browser, needs_chromium, page
from running import PATIENCE_S, Stack, wait_for

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "progress.md").read_text()

MANY = [f"bees find home by the sun number {n}" for n in range(600)]


def example(language):
    return re.search(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)[1]


def rerank_as(stack, name, documents=MANY, key="", **more):
    headers = {"X-Request-Id": name, **({"Authorization": f"Bearer {key}"} if key else {})}
    reply = stack.rerank(documents, headers=headers, **more)
    assert reply.status_code == 200
    assert reply.headers["X-Request-Id"] == name


def counts(stack, key=""):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return requests.get(f"{stack.url}/progress", headers=headers, timeout=PATIENCE_S).json()


def streams(stack):
    return counts(stack)["streams"]


@pytest.fixture(autouse=True)
def _the_pusher_hears_the_worker(stack):
    """What is told before the worker has found the pusher is told to nobody."""
    wait_for(lambda: counts(stack)["frames"], "a pulse of the worker")


def test_curl_follows_to_the_end(stack, tmp_path):
    environment = {**os.environ, "RERANK_URL": stack.url, "REQUEST_ID": "by-curl", "RERANK_KEY": ""}
    with (tmp_path / "said").open("w") as said:
        curl = subprocess.Popen(
            ["/bin/sh", "-c", example("sh")], env=environment, stdout=said, stderr=subprocess.DEVNULL
        )
    wait_for(lambda: streams(stack), "the stream is open")
    rerank_as(stack, "by-curl")
    assert curl.wait(PATIENCE_S) == 0
    said = (tmp_path / "said").read_text()
    assert 'event: finished\ndata: {"key":' in said
    assert '"status":"ok"' in said
    late = requests.get(f"{stack.url}/progress/by-curl", timeout=PATIENCE_S).text
    assert "event: finished" in late


def test_python_follows_to_the_end(stack, tmp_path):
    environment = {**os.environ, "RERANK_URL": stack.url, "REQUEST_ID": "by-python"}
    path = tmp_path / "said"
    with path.open("w") as said:
        follower = subprocess.Popen(
            [sys.executable, "-c", example("python")], env=environment, stdout=said, stderr=subprocess.STDOUT
        )
    wait_for(lambda: "following" in path.read_text(), "it follows")
    rerank_as(stack, "by-python")
    assert follower.wait(PATIENCE_S) == 0
    assert path.read_text().splitlines()[-1] == "600 of 600, ok"


@needs_chromium
def test_a_browser_follows_to_the_end(stack):
    with browser() as chromium, page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard")
        opened.evaluate(
            f"""async () => {{
              {example("js")}
              window.states = [];
              follow("by-browser", "", (state) => window.states.push(state));
            }}"""
        )
        rerank_as(stack, "by-browser")
        wait_for(lambda: opened.evaluate("window.states.at(-1)?.status === 'ok'"), "the end")
        assert opened.evaluate("window.states.every((state) => state.id === 'by-browser')")


class Follower:
    """A Socket.IO client and what it was told."""

    def __init__(self, stack, request_id=None, key=""):
        self.states = []
        self.client = socketio.Client(reconnection=False)
        self.client.on("progress", self.states.append)
        self.client.connect(stack.url, auth={"key": key}, transports=["websocket"])
        if request_id is not None:
            self.answer = self.client.call("follow", request_id)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()


@pytest.fixture(scope="module")
def guarded_stack(tmp_path_factory):
    with Stack(
        tmp_path_factory.mktemp("guarded"),
        engine="stub",
        api_keys="first,second",
        operator_keys="boss",
        events_text="true",
    ) as running:
        wait_for(lambda: counts(running, "boss").get("events"), "the workers are connected to the pusher")
        yield running


def test_a_follower_gets_its_request_and_no_other(stack):
    with Follower(stack, "mine") as follower:
        rerank_as(stack, "not-mine", MANY[:20])
        rerank_as(stack, "mine")
        wait_for(lambda: follower.states and follower.states[-1]["status"] == "ok", "the end")
        assert {state["id"] for state in follower.states} == {"mine"}
        assert follower.client.call("follow", "mine")["state"]["status"] == "ok"


@pytest.mark.parametrize("key", ["", "wrong"], ids=["no key", "wrong"])
def test_a_connection_needs_a_key(guarded_stack, key):
    with pytest.raises(socketio.exceptions.ConnectionError):
        Follower(guarded_stack, key=key)


@pytest.mark.parametrize("path", ["/progress/x", "/progress"])
def test_a_stream_needs_a_key(guarded_stack, path):
    assert requests.get(f"{guarded_stack.url}{path}", timeout=PATIENCE_S).status_code == 401


@pytest.mark.slow
def test_a_room_needs_ownership_or_an_operator_s_key(guarded_stack):
    name = "owned"
    with (
        Follower(guarded_stack, name, "first") as owner,
        Follower(guarded_stack, name, "second") as stranger,
        Follower(guarded_stack, name, "boss") as operator,
    ):
        rerank_as(guarded_stack, name, key="first")
        for follower in (owner, operator):
            wait_for(lambda told=follower: told.states and told.states[-1]["status"] == "ok", "the end")
        assert stranger.states == []
        assert stranger.client.call("follow", name)["state"] is None
        assert stranger.client.call("watch") == {"ok": False, "error": "forbidden"}
        assert operator.client.call("watch") == {"ok": True}


@pytest.mark.slow
def test_no_caller_reads_another_s_query_by_taking_its_request_id(guarded_stack):
    """Two callers send the same id, side by side and one after the other; each follows it, and so does an operator."""
    name, keys = "taken", ("first", "second")
    with ExitStack() as opened:
        followers = {key: opened.enter_context(Follower(guarded_stack, name, key)) for key in (*keys, "boss")}

        def rerank(key):
            rerank_as(guarded_stack, name, key=key, body={"query": f"a question of {key}"})

        with ThreadPoolExecutor(len(keys)) as pool:
            list(pool.map(rerank, keys * 10))
        for key in keys:
            rerank(key)
            told = followers[key].states
            wait_for(lambda told=told: told and told[-1]["status"] == "ok", "the end")
        whose = {key: {state["caller"] for state in followers[key].states} for key in (*keys, "boss")}
        assert whose["first"].isdisjoint(whose["second"])
        assert whose["boss"] == whose["first"] | whose["second"]
        for key in keys:
            late = [followers[key].client.call("follow", name)["state"], by_stream(guarded_stack, name, key)]
            queries = {state["query"] for state in [*followers[key].states, *late] if "query" in state}
            assert queries == {f"a question of {key}"}
            assert {state["status"] for state in late} == {"ok"}
            assert {state["caller"] for state in late} == whose[key]


def by_stream(stack, name, key):
    """Return the last state that a stream tells."""
    headers = {"Authorization": f"Bearer {key}"}
    text = requests.get(f"{stack.url}/progress/{name}", headers=headers, timeout=PATIENCE_S).text
    return json.loads(re.findall(r"^data: (.*)$", text, re.MULTILINE)[-1])


def test_rubbish_from_a_browser_is_refused_and_its_connection_goes_on(stack):
    with Follower(stack) as follower:
        for rubbish in (None, 7, "", "x" * 200, "<script>", {"id": "a"}, ["a"]):
            assert follower.client.call("follow", rubbish)["ok"] is False
        follower.client.emit("follow")
        follower.client.emit("unheard-of", {"a": 1})
        assert follower.client.call("unfollow", "never followed") == {"ok": True}
        for number in range(50):
            follower.client.call("follow", f"many-{number}")
        assert follower.client.call("follow", "one-more") == {"ok": False, "error": "too_many"}


def test_another_origin_is_refused(stack):
    reply = requests.get(
        f"{stack.url}/socket.io/?EIO=4&transport=polling",
        headers={"Origin": "http://elsewhere.example"},
        timeout=PATIENCE_S,
    )
    assert reply.status_code == 400
    same = requests.get(
        f"{stack.url}/socket.io/?EIO=4&transport=polling", headers={"Origin": stack.url}, timeout=PATIENCE_S
    )
    assert same.status_code == 200


@pytest.mark.slow
def test_five_hundred_followers_all_hear_of_the_end(stack):
    """When, `bench/pusher.py` says; here other tests share the cores."""
    script = Path(__file__).resolve().parents[2] / "bench" / "pusher.py"
    outcome = subprocess.run(
        [sys.executable, str(script), "--clients-only", stack.url, "500"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    told, _slowest_s = outcome.stdout.split()[-2:]
    assert int(told) == 500
