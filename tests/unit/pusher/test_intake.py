"""The way of events from workers to the pusher, over real sockets."""

import time

import gevent
import pytest
import zmq
from running import free_port

from contracts import secure_events
from contracts.events import Source, Worker, encode
from pusher.intake import Intake
from webapp.telemetry.publisher import CONNECT_AGAIN_S, WARN_S, Publisher

KEY, OTHER = "k" * 40, "o" * 40

PATIENCE_S = 60.0

READY = Worker(state="ready")


def until(condition, step=lambda: None):
    """Run the greenlets, and a step of the test, until a condition holds."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        step()
        gevent.sleep(0.01)


class Listening:
    """An intake that runs, and what it heard and counted."""

    def __init__(self, address, key=""):
        self.heard, self.counted = [], []
        self.intake = Intake(address, key=key, take=self.heard.append, count=self.counted.append)

    def __enter__(self):
        self._greenlet = gevent.spawn(self.intake.run)
        gevent.sleep(0)
        return self

    def __exit__(self, *_):
        self._greenlet.kill()


@pytest.fixture
def address():
    return f"tcp://127.0.0.1:{free_port()}"


class Sending:
    """A worker's publisher, whose clock the test sets."""

    def __init__(self, address, key=""):
        self.now = 0.0
        self.publisher = Publisher(address, key=key, clock=lambda: self.now)

    def __enter__(self):
        self.publisher.start()
        return self

    def __exit__(self, *_):
        self.publisher.close()

    def send(self):
        self.publisher.publish(READY)
        self.publisher.flush()

    def try_again(self):
        """Send when ZeroMQ has given up, if it has."""
        self.now += CONNECT_AGAIN_S
        self.send()
        gevent.sleep(0.2)


def test_events_come_over_tcp_with_the_same_key_and_name_their_host(address):
    with Listening(address, KEY) as pusher, Sending(address, KEY) as worker:
        until(lambda: pusher.heard, worker.send)
        assert pusher.heard[0].source.host
        assert pusher.heard[0].events[0] == READY
        assert pusher.counted == []


@pytest.mark.parametrize(("theirs", "ours"), [(OTHER, KEY), ("", KEY), (KEY, "")], ids=["other", "none", "not ours"])
def test_events_without_our_key_are_dropped_and_counted_and_each_side_says_so_once(address, theirs, ours, caplog):
    with Listening(address, ours) as pusher, Sending(address, theirs) as worker:
        until(lambda: len(pusher.counted) > 2 or not ours, worker.try_again)
        worker.now += WARN_S
        for _ in range(3):
            worker.try_again()
        assert pusher.heard == []
        assert set(pusher.counted) <= {"refused"}
        assert worker.publisher.published == 0
        assert worker.publisher.dropped >= 3
    said = [record.getMessage() for record in caplog.records]
    assert len([each for each in said if each.startswith("no pusher takes events at tcp://127.0.0.1")]) == 1
    assert len([each for each in said if each.startswith("refused a sender of events")]) == bool(ours)
    assert KEY not in caplog.text
    assert OTHER not in caplog.text


def test_who_knows_the_pusher_s_public_key_alone_is_refused(address):
    """So far ZeroMQ itself lets a sender in; our answer to its question decides."""
    pair = secure_events._pair
    stranger = pair(OTHER, b"sender")
    with Listening(address, KEY) as pusher, zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.set(zmq.LINGER, 0)
        socket.curve_serverkey = pair(KEY, b"receiver")[0]
        socket.curve_publickey, socket.curve_secretkey = stranger
        socket.connect(address)
        socket.send(encode(Source(id="stranger", pid=1), 0, [READY]))
        until(lambda: "refused" in pusher.counted)
        assert pusher.heard == []


def test_a_worker_that_was_refused_is_heard_once_the_pusher_has_its_key(address, monkeypatch):
    """ZeroMQ itself never tries again when its public key was refused."""
    pair = secure_events._pair
    with Listening(address, KEY) as pusher:
        monkeypatch.setattr(
            secure_events, "_pair", lambda key, role: pair(key, role if role == b"receiver" else b"new")
        )
        with Sending(address, KEY) as worker:
            until(lambda: pusher.counted, worker.try_again)
            pusher.__exit__()
            with Listening(address, KEY) as mended:
                until(lambda: mended.heard, worker.try_again)


def test_a_restarted_pusher_is_found_again(address):
    with Sending(address, KEY) as worker:
        for _ in range(2):
            with Listening(address, KEY) as pusher:
                until(lambda heard=pusher.heard: heard, worker.send)


def test_a_worker_ends_while_dns_does_not_answer():
    """ZeroMQ's thread waits for DNS, and `term` for that thread."""
    publisher = Publisher("tcp://pusher.invalid:5557", key=KEY)
    publisher.start()
    real, let_go = publisher._context, []

    class Waiting:
        def term(self):
            while not let_go:
                time.sleep(0.01)
            real.term()

    publisher._context = Waiting()
    publisher.close()
    let_go.append(True)


def test_an_address_that_is_taken_is_an_error_and_is_tried_again(address):
    with Listening(address, KEY):
        second = Intake(address, key=KEY, take=print, count=print)
        for _ in range(2):
            with pytest.raises(zmq.ZMQError, match="in use"):
                second.run()


def test_a_warning_of_one_kind_hides_none_of_another(caplog):
    intake = Intake("ipc:///nowhere", take=print, count=lambda _: None)
    for message in ("skipped a frame", "refused a sender", "skipped a frame"):
        intake._warn(message)
    assert [record.getMessage() for record in caplog.records] == ["skipped a frame", "refused a sender"]
