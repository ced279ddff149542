"""Nothing told of one owner's request reaches a follower that may not see it, whatever ids callers choose."""

import json
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import (
    VERSION,
    Accepted,
    Expired,
    Finished,
    Frame,
    Progress,
    Rejected,
    Shed,
    Source,
    Worker,
)
from pusher.access import Viewer, room_for, rooms_of
from pusher.relay import Relay
from pusher.streams import Streams

PAIRS = {"ann": 100, "bob": 200, "": 300}
"""Owner -> the figure in all that is told of its requests. Callers without a valid key have no owner."""

VIEWERS = {name: Viewer(name, operator=False) for name in ("ann", "bob")} | {"boss": Viewer("boss", operator=True)}
IDS = ("x", "y")


def event(kind, name, owner):
    figure = PAIRS[owner]
    of = {"id": name, "dialect": f"{owner}'s", "pairs": figure, "owner": owner}
    some = {"scored": figure, "latency_ms": float(figure)}
    return {
        "accepted": lambda: Accepted(**of, query=f"{owner} asks"),
        "progress": lambda: Progress(**of, scored=figure, age_ms=1.0),
        "finished": lambda: Finished(**of, status="ok", latency_ms=float(figure), tokens=figure),
        "failed": lambda: Finished(**of, status="internal", latency_ms=float(figure), field=f"{owner}[0]"),
        "expired": lambda: Expired(**of, **some),
        "cancelled": lambda: Finished(**of, status="cancelled", latency_ms=float(figure)),
        "shed": lambda: Shed(**of, reason=f"{owner}'s"),
        "rejected": lambda: Rejected(
            **of, code="invalid_request", http_status=400, latency_ms=float(figure), field=f"{owner}[0]"
        ),
        "unauthorized": lambda: Rejected(**of, code="unauthorized", http_status=401, latency_ms=float(figure)),
    }[kind]()


KINDS = ("accepted", "progress", "finished", "failed", "expired", "cancelled", "shed", "rejected", "unauthorized")
heard = st.one_of(
    st.builds(event, st.sampled_from(["accepted", "finished"]), st.just("x"), st.sampled_from(["ann", "bob"])),
    st.builds(event, st.sampled_from(KINDS), st.sampled_from(IDS), st.sampled_from(["ann", "bob"])),
    st.builds(event, st.sampled_from(["rejected", "unauthorized"]), st.sampled_from(IDS), st.just("")),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("hear"), st.sampled_from(["w1", "w2"]), heard),
        st.tuples(st.just("tick"), st.sampled_from([0.25, 1.0, 7.0])),
        st.tuples(st.just("come_late"), st.sampled_from(sorted(VIEWERS)), st.sampled_from(IDS)),
        st.tuples(st.just("down"), st.sampled_from(["w1", "w2"])),
        st.tuples(st.just("restart")),
    ),
    max_size=40,
)


@dataclass
class Pusher:
    """The relay with followers of each kind, without sockets."""

    now: float = 1000.0
    seqs: dict = field(default_factory=lambda: {"w1": 0, "w2": 0})
    sent: list = field(default_factory=list)
    """Viewer and state, of everything that went out."""

    def __post_init__(self):
        self.relay = Relay(self.now, "a salt")
        self.begin()

    def begin(self):
        self.streams = Streams()
        for viewer in VIEWERS.values():
            for name in IDS:
                self.follow(viewer, name)

    def follow(self, viewer, name):
        known = self.relay.runs.find(name, viewer.may_see)
        self.sent += [(viewer, state) for state in known]  # Socket.IO answers `follow` with them
        next(self.streams.follow(name, viewer, known))

    def hear(self, worker, *events):
        self.seqs[worker] += 1
        source = Source(id=worker, pid=1)
        self.relay.take(Frame(v=VERSION, source=source, seq=self.seqs[worker], events=list(events)), self.now)

    def down(self, worker):
        self.hear(worker, Worker(state="down"))

    def tick(self, seconds):
        self.now += seconds
        updates, _ = self.relay.tick(self.now)
        for update in updates:
            self.streams.push(update)
            for viewer in VIEWERS.values():
                if room_for(update.id, viewer) in rooms_of(update.id, update.owner):
                    self.sent.append((viewer, update.state))
        for slots in self.streams._slots.values():
            for slot in slots:
                self.sent += [(slot.viewer, state) for state in slot.take()]

    def come_late(self, name, request_id):
        self.follow(VIEWERS[name], request_id)

    def restart(self):
        self.tick(0.25)
        memory = json.loads(json.dumps(self.relay.memory()))
        self.relay = Relay(self.now, "another salt")
        self.relay.recall(memory)
        self.begin()


def owner_in(state):
    """Return the owner whose request a state tells of; all in the state must be of that one."""
    (owner,) = (name for name, pairs in PAIRS.items() if pairs == state["pairs"])
    others = [name for name in PAIRS if name and name != owner]
    text = json.dumps(state)
    assert not any(f"{other}'s" in text or f"{other} asks" in text or f"{other}[0]" in text for other in others), state
    assert state["scored"] in {0, state["pairs"]}
    assert state.get("tokens", state["pairs"]) == state["pairs"]
    assert state["status"] == "lost" or state.get("latency_ms", 0.0) in {0.0, float(state["pairs"])}
    return owner


@settings(max_examples=400, deadline=None)
@given(steps)
def test_a_follower_gets_only_its_owner_s_requests(story):
    pusher = Pusher()
    for step, *rest in story:
        getattr(pusher, step)(*rest)
    pusher.tick(1.0)
    for viewer, state in pusher.sent:
        owner = owner_in(state)
        assert state.get("caller", "") == pusher.relay.runs.caller_of(owner)
        assert viewer.operator or owner == viewer.owner, f"{viewer.owner} is told of {state}"
    snapshot = pusher.relay.snapshot()
    for state in [*snapshot["running"], *snapshot["recent"]]:
        assert state.get("caller", "") == pusher.relay.runs.caller_of(owner_in(state))


def states_sent_to(pusher, name):
    return [state for viewer, state in pusher.sent if viewer is VIEWERS[name]]


@settings(max_examples=50, deadline=None)
@given(st.permutations(["ann", "bob"]), st.permutations(["ann", "bob"]), st.sampled_from(["w1", "w2"]))
def test_two_owners_requests_with_one_id_both_run_and_end_for_their_own_followers(begin, end, other_worker):
    workers = {"ann": "w1", "bob": other_worker}
    pusher = Pusher()
    for owner in begin:
        pusher.hear(workers[owner], event("accepted", "x", owner))
    pusher.tick(0.25)
    operator_s = pusher.relay.snapshot()["running"]
    assert {state["query"] for state in operator_s} == {"ann asks", "bob asks"}
    for owner in end:
        pusher.hear(workers[owner], event("finished", "x", owner))
        pusher.tick(0.25)
    for owner in ("ann", "bob"):
        statuses = [state["status"] for state in states_sent_to(pusher, owner)]
        assert statuses[-1] == "ok"
        assert statuses[0] == "running"
        assert states_sent_to(pusher, owner)[-1]["query"] == f"{owner} asks"
    pusher.restart()
    for owner in ("ann", "bob"):
        (known,) = pusher.relay.runs.find("x", VIEWERS[owner].may_see)
        assert (known["status"], known["query"]) == ("ok", f"{owner} asks")
    assert len(pusher.relay.runs.find("x", VIEWERS["boss"].may_see)) == 2


def test_what_is_refused_under_an_id_ends_no_other_owner_s_request():
    pusher = Pusher()
    pusher.hear("w1", event("accepted", "x", "ann"))
    pusher.tick(0.25)
    pusher.hear("w1", event("rejected", "x", "bob"), event("unauthorized", "x", ""), event("shed", "x", "bob"))
    pusher.tick(0.25)
    assert {state["status"] for state in states_sent_to(pusher, "ann")} == {"running"}
    assert [state["status"] for state in pusher.relay.snapshot()["running"]] == ["running"]


def test_labels_of_callers_are_no_hashes_that_guessed_keys_can_be_compared_with():
    event_of = event("accepted", "x", "ann")
    one, other = Relay(0.0, "a salt").runs, Relay(0.0, "another").runs
    assert one.caller_of("ann") == one.caller_of("ann") != one.caller_of("bob")
    assert one.key_of("w", event_of) != other.key_of("w", event_of)
