from contracts.events import VERSION, Breaker, Frame, Pulse, Source, Worker
from pusher.relay import Relay
from pusher.workers import EVENTS_KEPT as KEPT

NOW = 1000.0
SOURCE = Source(id="w1", pid=42, color="blue")


def say(relay, *events, at=NOW, seq=0):
    relay.take(Frame(v=VERSION, source=SOURCE, seq=seq, events=list(events)), at)


def pulse(breaker="closed"):
    return Pulse(state="ready", queue_pairs=0, queue_tokens=0, in_flight=0, pairs_per_s=0.0, breaker=breaker)


def events_in(delta):
    return [event["what"] for event in delta.get("events", ())]


def test_changes_of_the_breaker_and_of_workers_are_told_once_in_their_order():
    relay = Relay(NOW)
    say(relay, Worker(state="ready"), Breaker(was="closed", state="open"), Breaker(was="open", state="half_open"))
    _, delta = relay.tick(NOW + 0.25)
    assert events_in(delta) == ["ready", "breaker open", "breaker half_open"], "though all lie between two pulses"
    assert delta["events"][1] == {
        "number": 1,
        "at": NOW,
        "worker": "w1",
        "pid": 42,
        "color": "blue",
        "host": "",
        "what": "breaker open",
    }
    say(relay, pulse("half_open"), at=NOW + 1, seq=1)
    _, delta = relay.tick(NOW + 1)
    assert events_in(delta) == []


def silence(relay):
    """Listen until nobody has said anything for four seconds; returns the last delta."""
    for second in range(1, 5):
        _, delta = relay.tick(NOW + second)
    return delta


def test_a_worker_that_falls_silent_is_a_event():
    relay = Relay(NOW)
    say(relay, Worker(state="ready"))
    relay.tick(NOW)
    assert events_in(silence(relay)) == ["lost"]


def test_snapshots_and_the_next_life_know_the_latest():
    relay = Relay(NOW)
    for _ in range(KEPT):
        say(relay, Breaker(was="closed", state="open"), Breaker(was="open", state="closed"))
    relay.tick(NOW)
    after = Relay(NOW)
    after.recall(relay.memory())
    assert after.snapshot()["events"] == relay.snapshot()["events"]
    assert len(after.snapshot()["events"]) == KEPT


def test_a_state_whose_event_was_dropped_is_told_by_the_pulse_and_only_once():
    relay = Relay(NOW)  # the worker was there first: its "loading" and "ready" found nobody
    for second in range(3):
        say(relay, pulse(), at=NOW + second, seq=second)
    _, delta = relay.tick(NOW + 3)
    assert events_in(delta) == ["ready"]
    assert delta["events"][0]["at"] == NOW


def test_a_worker_that_was_lost_and_is_heard_again_is_ready_again():
    relay = Relay(NOW)
    say(relay, Worker(state="ready"))
    silence(relay)
    say(relay, pulse(), at=NOW + 5, seq=1)
    relay.tick(NOW + 5)
    assert [event["what"] for event in relay.snapshot()["events"]] == ["ready", "lost", "ready"]


def test_a_new_life_of_the_pusher_does_not_tell_again_what_the_last_one_told():
    relay = Relay(NOW)
    say(relay, Worker(state="ready"), Breaker(was="closed", state="open"))
    after = Relay(NOW)
    after.recall(relay.memory())
    say(after, pulse("open"), at=NOW + 1, seq=1)
    assert events_in(after.tick(NOW + 1)[1]) == []
    say(after, Worker(state="draining"), at=NOW + 2, seq=2)
    assert events_in(after.tick(NOW + 2)[1]) == ["draining"]
