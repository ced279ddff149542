"""The relay and the browser's store together: a page lists what the relay told, each thing once."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.events import (
    VERSION,
    Accepted,
    Breaker,
    Expired,
    Finished,
    Frame,
    Progress,
    Pulse,
    Rejected,
    Release,
    Serves,
    Shed,
    Source,
    Worker,
)
from pusher.relay import Relay

PEER = Path(__file__).resolve().parents[2] / "dashboard" / "store_peer.mjs"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")

NAMES = st.fixed_dictionaries({"id": st.sampled_from(["a", "b"]), "owner": st.sampled_from(["", "ann", "bob"])})
OF = {"dialect": "native", "pairs": 10}
STATES = st.sampled_from(["loading", "ready", "draining", "down"])
SERVES = Serves(model="m", engine="openvino", precision="int8", release=2)


def request_events(name):
    of = {**name, **OF}
    return st.sampled_from(
        [
            Accepted(**of),
            Progress(**of, scored=3, age_ms=2000.0),
            Progress(**of, scored=7, age_ms=100.0),
            Finished(**of, status="ok", latency_ms=1.0, tokens=5),
            Finished(**of, status="internal", latency_ms=1.0),
            Expired(**of, scored=1, latency_ms=1.0),
            Finished(**of, status="cancelled", latency_ms=1.0),
            Shed(**of, reason="full"),
            Rejected(**of, code="invalid_request", http_status=400, latency_ms=0.1),
            Rejected(**of, code="unauthorized", http_status=401, latency_ms=0.1),
        ]
    )


def pulse(state):
    vitals = {"queue_pairs": 1, "queue_tokens": 2, "in_flight": 0, "pairs_per_s": 1.0}
    return Pulse(state=state, **vitals, serves=SERVES)


releases = st.builds(
    Release,
    number=st.integers(1, 3),
    color=st.just("green"),
    what=st.just("m"),
    began=st.sampled_from([1.0, 2.0, 3.0]),
    state=st.sampled_from(["running", "serving", "refused", "rolled back"]),
)
heard = st.one_of(
    NAMES.map(lambda name: Accepted(**name, **OF)),  # often: what begins again under its id is hardest to tell
    NAMES.map(lambda name: Finished(**name, **OF, status="ok", latency_ms=1.0)),
    NAMES.flatmap(request_events),
    STATES.map(pulse),
    STATES.map(lambda state: Worker(state=state)),
    st.just(Breaker(was="closed", state="open")),
    releases,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("frame"), st.just("w1"), st.lists(heard, min_size=1, max_size=6)),
        st.tuples(st.just("frame"), st.sampled_from(["w1", "w2"]), st.lists(heard, min_size=1, max_size=6)),
        st.tuples(st.just("tick"), st.sampled_from([0.0, 0.25, 1.0, 5.0, 25.0])),
        st.tuples(st.just("tick"), st.sampled_from([0.25, 1.0])),
        st.tuples(st.just("load")),
        st.tuples(st.just("lose")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("flood"), st.integers(1, 300), st.sampled_from(["ok", "internal", "invalid_request"])),
    ),
    max_size=30,
)


class Browser:
    """A page's store, in Node."""

    def __init__(self):
        self._node = subprocess.Popen([NODE, str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, kind, message=None):
        self._node.stdin.write(json.dumps({"kind": kind, "message": message}) + "\n")
        self._node.stdin.flush()
        return json.loads(self._node.stdout.readline())

    def hear(self, delta, relay):
        """A page asks for a snapshot when it missed something; meanwhile the relay may have heard more."""
        if self.say("delta", delta)["missed"]:
            self.say("snapshot", relay.snapshot())

    def close(self):
        self._node.stdin.close()
        self._node.wait(60)
        self._node.stdout.close()


@pytest.fixture(scope="module")
def browsers():
    opened = [Browser() for _ in range(3)]
    yield opened
    for each in opened:
        each.close()


def lists(told):
    """What a page lists, by name, in an order of its own; no entry twice."""
    keys = {"running": "key", "recent": "number", "workers": "id", "events": "number", "points": "t"}
    keys["releases"] = ("number", "began")
    shown = {}
    for name, key in keys.items():
        names = [tuple(each[k] for k in key) if isinstance(key, tuple) else each[key] for each in told[name]]
        assert len(set(names)) == len(names), f"{name} lists one entry twice: {names}"
        shown[name] = dict(zip(names, told[name], strict=True))
    return {**shown, "seq": told["seq"], "at": told["at"], "counts": told["counts"]}


def check(relay, watching, late, fresh):
    """All three know the same: one that heard everything, one that missed some, one that was just opened."""
    now = lists(fresh.say("snapshot", relay.snapshot()))
    assert lists(watching.say("look")) == now
    if not late.missing:
        assert lists(late.say("look")) == now
    if not relay.unticked:
        assert set(now["running"]) == set(relay.runs.running)


class Told(Relay):
    """A relay that knows whether it heard something since its last tick."""

    unticked = False

    def take(self, frame, now):
        self.unticked = True
        super().take(frame, now)

    def tick(self, now):
        told = super().tick(now)
        self.unticked = False
        return told


AGAIN = Accepted(id="a", **OF)
END = Finished(id="a", **OF, status="ok", latency_ms=1.0)


class Story:
    """A relay, and two pages: one that hears everything, one that misses deltas."""

    def __init__(self, watching, late):
        self.watching, self.late = watching, late
        self.now, self.seqs = 1000.0, {"w1": 0, "w2": 0}
        self.relay = Told(self.now)
        self.deaf = False
        self.everyone_loads()

    def everyone_loads(self):
        for browser in (self.watching, self.late):
            browser.say("snapshot", self.relay.snapshot())
            browser.missing = False

    def frame(self, source, events):
        frame = Frame(v=VERSION, source=Source(id=source, pid=1), seq=self.seqs[source], events=events)
        self.relay.take(frame, self.now)
        self.seqs[source] += 1

    def flood(self, count, status):
        end = {"id": "flood", **OF, "latency_ms": 1.0}
        refused = status == "invalid_request"
        self.frame(
            "w1", [Rejected(**end, code=status, http_status=400) if refused else Finished(**end, status=status)] * count
        )

    def tick(self, seconds):
        self.now += seconds
        _, delta = self.relay.tick(self.now)
        if delta is not None:
            self.watching.hear(delta, self.relay)
            self.late.missing = self.deaf
            if not self.deaf:
                self.late.hear(delta, self.relay)
        self.deaf = False

    def load(self):
        self.late.say("snapshot", self.relay.snapshot())
        self.late.missing = False

    def lose(self):
        self.deaf = True

    def restart(self):
        memory = json.loads(json.dumps(self.relay.memory()))
        self.relay = Told(self.now)
        self.relay.recall(memory)
        self.everyone_loads()


@settings(max_examples=300)
@given(steps)
@example([("frame", "w1", [AGAIN]), ("tick", 0.25), ("frame", "w1", [AGAIN, END]), ("tick", 0.25)])
@example([("frame", "w1", [AGAIN]), ("tick", 0.25), ("frame", "w1", [END, AGAIN]), ("load",), ("tick", 0.25)])
def test_every_browser_lists_what_the_relay_told_and_each_thing_once(browsers, story):
    watching, late, fresh = browsers
    told = Story(watching, late)
    for step, *rest in story:
        getattr(told, step)(*rest)
        check(told.relay, watching, late, fresh)
