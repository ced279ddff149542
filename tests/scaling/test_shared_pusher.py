"""Two stacks with one pusher: a follower hears of a request, whichever of the stacks computes it."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import pytest
import requests
import socketio
import zmq
from running import PATIENCE_S, Stack, free_port, wait_for

from contracts.events import Finished, Source, encode
from contracts.secure_events import secure_sender

pytestmark = pytest.mark.slow

KEY = "the-key-of-all-that-send-events-here"

FOLLOWED = 50


class Pusher(Stack):
    """`reranking pusher` in a process of its own."""

    def __init__(self, state_dir, **variables):
        super().__init__(state_dir, **variables)
        self.url = f"http://127.0.0.1:{self.port}"
        self.events = f"tcp://127.0.0.1:{free_port()}"
        self.command = ("pusher", "--listen", f"127.0.0.1:{self.port}", "--events-listen", self.events)

    def start(self):
        self.begin()
        wait_for(self.answers, "the pusher answers")
        return self

    def answers(self):
        try:
            return requests.get(f"{self.url}/live", timeout=PATIENCE_S).json() == {"status": "ok"}
        except requests.ConnectionError:
            assert self.process.poll() is None, self._output.read_text()
            return False


@pytest.fixture(scope="module")
def pusher(tmp_path_factory):
    with Pusher(tmp_path_factory.mktemp("pusher"), events_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def replicas(pusher, tmp_path_factory):
    one, two = (
        Stack(
            tmp_path_factory.mktemp(name),
            engine="stub",
            balancers="127.0.0.1",
            pusher_url=pusher.url,
            events_endpoint=pusher.events,
            events_key=KEY,
        )
        for name in ("one", "two")
    )
    with one, two:
        wait_for(lambda: len(workers(one)) == len(workers(two)) == 2, "the pusher hears both")
        yield one, two


@pytest.fixture(scope="module")
def balancer(replicas, pusher, make_balancer):
    with make_balancer(replicas, pusher_url=pusher.url, tls="self-signed") as running:
        running.url = running.url.replace("http:", "https:")
        running.cert = str(running.state_dir / "tls" / "cert.pem")
        yield running


def counts(stack):
    return requests.get(f"{stack.url}/progress", timeout=PATIENCE_S).json()


def workers(stack):
    """Workers of the overview, as this stack's dashboard has them."""
    with socketio.SimpleClient() as client:
        client.connect(stack.url, transports=["websocket"])
        client.call("watch")
        event, snapshot = client.receive(PATIENCE_S)
        while event != "snapshot":
            event, snapshot = client.receive(PATIENCE_S)
        return snapshot["workers"]


def heard_by_stream(url, name, during, **options):
    """Follow by server-sent events, and return the statuses."""
    with requests.get(f"{url}/progress/{name}", stream=True, timeout=PATIENCE_S, **options) as reply:
        lines = reply.iter_lines(decode_unicode=True)
        assert next(lines) == "retry: 1000"
        during()
        return re.findall(r'"status":"(\w+)"', "\n".join(lines))


def heard_by_socket(url, name, during):
    """Follow by Socket.IO, and return the statuses."""
    with socketio.SimpleClient() as client:
        client.connect(url, transports=["websocket"])
        client.call("follow", name)
        during()
        heard = []
        while not heard or heard[-1] == "running":
            heard.append(client.receive(PATIENCE_S)[1]["status"])
        return heard


def test_fifty_requests_are_followed_through_the_other_replica_and_all_are_heard(replicas):
    def follow(number):
        computes, other = replicas[number % 2], replicas[1 - number % 2]
        way = heard_by_stream if number % 4 < 2 else heard_by_socket
        name = f"followed-{number}"

        def rerank():
            assert computes.rerank(headers={"X-Request-Id": name}).status_code == 200

        return way(other.url, name, rerank)[-1]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(follow, range(FOLLOWED))) == ["ok"] * FOLLOWED


def test_requests_through_a_balancer_are_followed_through_it(replicas, balancer):
    body = {"query": "q", "documents": ["a", "b"]}
    for number in range(6):
        name = f"balanced-{number}"

        def rerank(name=name):
            headers = {"X-Request-Id": name}
            reply = requests.post(
                f"{balancer.url}/rerank", json=body, headers=headers, timeout=PATIENCE_S, verify=balancer.cert
            )
            assert reply.status_code == 200

        assert heard_by_stream(balancer.url, name, rerank, verify=balancer.cert)[-1] == "ok"
    page = requests.get(f"{balancer.url}/dashboard/", timeout=PATIENCE_S, verify=balancer.cert)
    assert (page.status_code, "<title>" in page.text) == (200, True)
    assert requests.get(f"{balancer.url}/metrics", timeout=PATIENCE_S, verify=balancer.cert).status_code == 404
    upstreams = {line["upstream"] for line in balancer.lines() if line["request_id"].startswith("balanced")}
    assert f"127.0.0.1:{replicas[0].port}" in str(upstreams)


@pytest.mark.parametrize(("source", "status"), [("127.0.0.1", 200), ("127.0.0.2", 400)], ids=["balancer", "other"])
def test_a_page_of_a_balancer_with_tls_connects_through_a_replica(replicas, source, status):
    """Traefik passes everything to the replicas. They know it by RERANK_BALANCERS: it may say that TLS ended there."""
    headers = {"Host": "rerank.example", "Origin": "https://rerank.example", "X-Forwarded-Proto": "https"}
    with closing(HTTPConnection("127.0.0.1", replicas[0].port, PATIENCE_S, (source, 0))) as connection:
        connection.request("GET", "/socket.io/?EIO=4&transport=polling", headers=headers)
        assert connection.getresponse().status == status


def test_each_replica_shows_the_workers_of_both_with_their_hosts_and_runs_no_pusher(replicas):
    for stack in replicas:
        found = workers(stack)
        assert len({worker["id"] for worker in found}) == 2
        assert all(worker["host"] for worker in found)
        assert "pusher" not in stack.supervisorctl("status")
        assert "rerank_pusher" not in requests.get(f"{stack.url}/metrics", timeout=PATIENCE_S).text


def test_a_killed_pusher_fails_no_rerank_and_the_next_one_is_heard(replicas, pusher):
    one, two = replicas
    pusher.process.send_signal(signal.SIGKILL)
    pusher.process.wait(PATIENCE_S)
    for number in range(20):
        assert replicas[number % 2].rerank().status_code == 200
    for path in ("/progress", "/progress/x", "/socket.io/?EIO=4&transport=polling"):
        reply = requests.get(f"{one.url}{path}", timeout=PATIENCE_S)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
    status = subprocess.run(
        [sys.executable, "-m", "webapp", "status"], env=one._environment, capture_output=True, text=True, check=False
    )
    assert f"{pusher.url} does not answer" in status.stdout
    pusher.start()
    wait_for(lambda: len(workers(two)) == 2, "both workers come again")
    for computes, other in (replicas, replicas[::-1]):
        name = f"later-{computes.port}"
        rerank = lambda computes=computes, name=name: computes.rerank(headers={"X-Request-Id": name})  # noqa: E731
        assert heard_by_stream(other.url, name, rerank)[-1] == "ok"


@pytest.mark.parametrize("key", ["", "another-key-of-more-than-32-characters"], ids=["no key", "another key"])
def test_a_stranger_s_events_reach_no_follower(replicas, pusher, key):
    before = counts(replicas[0])
    told = Finished(id="false", dialect="native", pairs=1, status="stranger", latency_ms=1.0)

    def refused():
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.set(zmq.LINGER, 100)
            secure_sender(socket, pusher.events, key)
            socket.connect(pusher.events)
            socket.send(encode(Source(id="stranger", pid=1), 0, [told]))
        return counts(replicas[0])["refused"] > before["refused"]

    def told_by_both():
        wait_for(refused, "the stranger is counted")
        replicas[0].rerank(headers={"X-Request-Id": "false"}, documents=["a", "b", "c"])

    heard = heard_by_stream(replicas[1].url, "false", told_by_both)
    assert heard[-1] == "ok"
    assert "stranger" not in heard
    assert "stranger" not in str(workers(replicas[0]))
    said = [line for line in pusher._output.read_text().splitlines() if "refused a sender of events" in line]
    assert len(said) == 1, "once a minute"


def test_it_ends_in_order_and_gives_its_ports_free(tmp_path):
    shared = Pusher(tmp_path)
    with shared:
        follower = requests.get(f"{shared.url}/progress/x", stream=True, timeout=PATIENCE_S)
        assert requests.get(f"{shared.url}/figures", timeout=PATIENCE_S).status_code == 404
        environment = shared._environment
        second = subprocess.run(
            [sys.executable, "-m", "webapp", *shared.command, "--state-dir", str(tmp_path / "two")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, "--listen: can't listen there" in second.stderr) == (1, True)
        assert shared.stop() == 0
        follower.close()
        assert (tmp_path / "run" / "pusher.json").exists()
        shared.start()


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [
        ((), "", "--events-listen: without RERANK_EVENTS_KEY, all that reach tcp://0.0.0.0:5557 could send false"),
        ((), "short", "RERANK_EVENTS_KEY has less than 32 characters"),
        (("--listen", "8081"), KEY, "--listen: 8081 is not host:port"),
        (("--listen", "127.0.0.1:80/x"), KEY, "--listen: 127.0.0.1:80/x is not host:port"),
        (("--events-listen", "0.0.0.0:5557"), KEY, "--events-listen: '0.0.0.0:5557' is not tcp://host:port"),
        (("--listen", "127.0.0.1:80800"), KEY, "--listen: Port out of range"),
    ],
)
def test_what_can_t_be_right_is_refused_in_a_sentence(tmp_path, arguments, key, said):
    done = subprocess.run(
        [sys.executable, "-m", "webapp", "pusher", *arguments],
        env={**os.environ, "RERANK_CONFIG": "", "RERANK_STATE_DIR": str(tmp_path), "RERANK_EVENTS_KEY": key},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert said in done.stderr
