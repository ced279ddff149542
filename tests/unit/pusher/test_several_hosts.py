"""One pusher for the stacks of several machines, pods or containers."""

import json

import pytest

from contracts.events import VERSION, Accepted, Finished, Frame, Pulse, Release, Serves, Source
from pusher.relay import Relay

NOW = 1000.0

PULSE = {"state": "ready", "queue_pairs": 0, "queue_tokens": 0, "in_flight": 0, "pairs_per_s": 1.0}


@pytest.fixture
def relay():
    return Relay(NOW)


def say(relay, host, *events, worker=""):
    """Take events of a process of a host; all have one pid, as first processes of containers have."""
    source = Source(id=worker or f"worker-{host}", pid=7, color="blue", host=host)
    relay.take(Frame(v=VERSION, source=source, seq=0, events=list(events)), NOW)


def release(number, began=NOW, **more):
    return Release(number=number, color="green", what="a model", began=began, **more)


def test_workers_with_one_pid_are_two_and_have_the_names_of_their_hosts(relay):
    for host in ("pod-1", "pod-2"):
        say(relay, host, Pulse(**PULSE))
    relay.tick(NOW)
    known = [(each["host"], each["pid"], each["state"]) for each in relay.snapshot()["workers"]]
    assert known == [("pod-1", 7, "ready"), ("pod-2", 7, "ready")]
    assert [each["host"] for each in relay.snapshot()["events"]] == ["pod-1", "pod-2"]


def test_one_id_on_two_replicas_is_followed_until_both_have_ended(relay):
    of = {"id": "taken", "dialect": "native", "pairs": 2}
    for host in ("pod-1", "pod-2"):
        say(relay, host, Accepted(**of))
    say(relay, "pod-1", Finished(**of, status="ok", latency_ms=1.0))
    updates, _ = relay.tick(NOW)
    assert sorted((update.state["worker"], update.state["status"]) for update in updates) == [
        ("worker-pod-1", "ok"),
        ("worker-pod-2", "running"),
    ]
    assert [state["worker"] for state in relay.runs.find("taken", lambda _: True)] == ["worker-pod-2"]


def test_a_release_of_one_host_replaces_none_of_another(relay):
    for host in ("one", "two"):
        say(relay, host, release(1, state="serving"), worker=f"deploy-{host}")
    say(relay, "two", release(2, NOW + 1), worker="deploy-again")
    say(relay, "one", release(2, NOW + 1, state="serving"), worker="deploy-once-more")
    relay.tick(NOW)
    states = {(each["host"], each["number"]): each["state"] for each in relay.snapshot()["releases"]}
    assert states == {
        ("one", 1): "replaced",
        ("two", 1): "serving",
        ("two", 2): "running",
        ("one", 2): "serving",
    }


def test_a_release_has_the_model_that_workers_of_its_own_host_report(relay):
    for host, model in (("one", "small"), ("two", "large")):
        say(relay, host, release(1, state="serving"), worker=f"deploy-{host}")
        served = Serves(model=model, engine="native", precision="int8", release=1)
        say(relay, host, Pulse(**PULSE, serves=served))
    relay.tick(NOW)
    assert {each["host"]: each["serves"]["model"] for each in relay.snapshot()["releases"]} == {
        "one": "small",
        "two": "large",
    }


def test_a_memory_of_before_hosts_had_names_is_recalled(relay):
    say(relay, "", release(1, state="serving"), worker="deploy")
    say(relay, "", Pulse(**PULSE))
    relay.tick(NOW)
    memory = json.loads(json.dumps(relay.memory()))
    for each in (*memory["releases"], *memory["events"], *memory["workers"]):
        del each["host"]
    again = Relay(NOW)
    again.recall(memory)
    say(again, "", release(2, NOW + 1, state="serving"), worker="deploy")
    again.tick(NOW)
    assert [each["state"] for each in again.snapshot()["releases"]] == ["replaced", "serving"]
