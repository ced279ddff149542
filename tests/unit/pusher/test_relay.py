import json

from contracts.events import (
    VERSION,
    Accepted,
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
    Step,
    Worker,
)
from pusher.relay import TICK_S, Relay
from pusher.runs import ENDED, IN_DELTA, KEPT, SHOWN

NOW = 1000.0


class Workers:
    """Workers that publish to a relay."""

    def __init__(self, relay):
        self.relay = relay
        self.seqs = {}

    def say(self, *events, at=NOW, worker="w1", skip=0, color=""):
        seq = self.seqs.get(worker, 0) + skip
        self.seqs[worker] = seq + 1
        self.relay.take(
            Frame(v=VERSION, source=Source(id=worker, pid=1, color=color), seq=seq, events=list(events)), at
        )


def relay_and_workers():
    relay = Relay(NOW)
    return relay, Workers(relay)


def everybody_s(_owner):
    return True


def accepted(name="a", pairs=100, **more):
    return Accepted(id=name, dialect="native", pairs=pairs, **more)


def progress(name="a", scored=1, pairs=100, **more):
    return Progress(id=name, dialect="native", pairs=pairs, scored=scored, age_ms=1.0, **more)


def finished(name="a", status="ok", latency_ms=10.0, **more):
    return Finished(id=name, dialect="native", pairs=100, status=status, latency_ms=latency_ms, **more)


def pulse(state="ready", **more):
    return Pulse(**{"state": state, "queue_pairs": 5, "queue_tokens": 50, "in_flight": 1, "pairs_per_s": 10.0, **more})


def test_a_hundred_updates_a_second_are_told_four_times():
    relay, workers = relay_and_workers()
    workers.say(accepted())
    told = []
    for step in range(100):
        now = NOW + step / 100
        workers.say(progress(scored=step), at=now)
        if step % 25 == 0:
            updates, _ = relay.tick(now)
            told += updates
    assert len(told) == 4
    assert told[-1].state["scored"] == 75


def test_deltas_are_numbered_without_gaps_and_a_snapshot_carries_the_last_number():
    relay, workers = relay_and_workers()
    numbers = []
    for step in range(5):
        workers.say(accepted(str(step)))
        numbers.append(relay.tick(NOW + step * TICK_S)[1]["seq"])
    assert numbers == [1, 2, 3, 4, 5]
    assert relay.snapshot()["seq"] == 5


def test_nothing_new_is_no_delta():
    relay, workers = relay_and_workers()
    workers.say(accepted(), progress(scored=7))
    relay.tick(NOW)
    workers.say(progress(scored=7))  # told again, but no further
    assert relay.tick(NOW + TICK_S) == ([], None)


def test_snapshot_and_deltas_tell_the_same_story():
    """A browser that saw every delta knows what a late one gets as a snapshot."""
    relay, workers = relay_and_workers()
    running = {}
    for step in range(40):
        now = NOW + step * TICK_S
        workers.say(accepted(f"r{step}"), progress(f"r{step}", scored=step), at=now)
        if step % 3 == 0:
            workers.say(finished(f"r{step // 2}"), at=now)
        _, delta = relay.tick(now)
        running |= {run["key"]: run for run in delta.get("running", [])}
        for key in delta.get("ended", []):
            running.pop(key, None)
    snapshot = {run["key"]: run for run in relay.snapshot()["running"]}
    assert running == snapshot
    assert snapshot


def test_an_end_is_told_once_to_followers_and_dashboards():
    relay, workers = relay_and_workers()
    workers.say(accepted(owner="me"))
    relay.tick(NOW)
    workers.say(finished(truncated=2, cached=3, owner="me"))
    (update,), delta = relay.tick(NOW + 1)
    assert (update.id, update.owner, update.state["status"]) == ("a", "me", "ok")
    assert delta["ended"] == {update.state["key"]: "ok"}
    assert delta["recent"] == [update.state]
    assert "owner" not in json.dumps(delta)
    assert relay.tick(NOW + 1.1)[0] == []


def test_an_end_has_no_times_that_are_empty():
    relay, workers = relay_and_workers()
    workers.say(accepted(), finished(queue_ms=0.0, score_ms=2.5, cached=0))
    (run,) = relay.tick(NOW)[1]["recent"]
    assert (run["score_ms"], run["cached"]) == (2.5, 0)
    assert not {"queue_ms", "tokenise_ms"} & run.keys()


def test_each_kind_of_end_has_its_status():
    relay, workers = relay_and_workers()
    of = {"id": "a", "dialect": "native", "pairs": 9}
    workers.say(
        Shed(**of, reason="full"),
        Expired(**of, scored=3, latency_ms=1.0),
        finished(status="cancelled"),
        finished(status="engine_failed"),
    )
    assert [update.state["status"] for update in relay.tick(NOW)[0]] == [
        "shed",
        "expired",
        "cancelled",
        "engine_failed",
    ]
    assert relay.counts()["ended"] == {"shed": 1, "expired": 1, "cancelled": 1, "engine_failed": 1}


def test_a_restarted_pusher_learns_of_running_requests_from_their_progress():
    relay, workers = relay_and_workers()
    workers.seqs["w1"] = 500
    workers.say(progress(scored=40))
    relay.tick(NOW)
    (run,) = relay.snapshot()["running"]
    assert (run["scored"], run["pairs"]) == (40, 100)
    assert relay.counts()["lost_frames"] == 0


def test_lost_frames_are_counted():
    relay, workers = relay_and_workers()
    workers.say(pulse())
    workers.say(pulse(), skip=3)
    assert relay.counts()["lost_frames"] == 3


def test_a_worker_that_falls_silent_is_lost_with_its_requests_and_later_forgotten():
    relay, workers = relay_and_workers()
    workers.say(pulse(), accepted())
    for second in range(4):
        relay.tick(NOW + second)
    updates, delta = relay.tick(NOW + 4)
    assert updates[0].state["status"] == "lost"
    assert delta["workers"][0]["state"] == "lost"
    told = [relay.tick(NOW + second)[1] for second in range(5, 30)]
    assert [delta["gone"] for delta in told if "gone" in delta] == [["w1"]]
    assert relay.snapshot()["workers"] == []


def test_workers_and_requests_are_not_lost_because_the_pusher_stood_still():
    relay, workers = relay_and_workers()
    workers.say(pulse(), accepted())
    relay.tick(NOW)
    later = NOW + 3600
    _, delta = relay.tick(later)  # before what they said meanwhile is taken
    assert "workers" not in delta
    workers.say(pulse(), progress(scored=50), at=later + 1)
    relay.tick(later + 1)
    assert [run["scored"] for run in relay.snapshot()["running"]] == [50]
    for second in range(2, 6):
        updates, _ = relay.tick(later + second)
    assert updates[0].state["status"] == "lost", "silence still counts"


def test_a_worker_that_says_goodbye_leaves_no_request_running():
    relay, workers = relay_and_workers()
    workers.say(accepted())
    relay.tick(NOW)
    workers.say(Worker(state="down"))
    relay.tick(NOW + TICK_S)
    assert relay.snapshot()["running"] == []


def test_a_request_whose_end_was_dropped_does_not_run_for_ever():
    relay, workers = relay_and_workers()
    workers.say(accepted())
    for second in range(8):
        workers.say(pulse(), at=NOW + second)
        relay.tick(NOW + second)
    assert relay.snapshot()["running"] == []


def test_blue_and_green_are_told_apart_even_with_one_request_id():
    relay, workers = relay_and_workers()
    workers.say(pulse(), accepted(), worker="b", color="blue")
    workers.say(pulse(), accepted(), worker="g", color="green")
    relay.tick(NOW)
    snapshot = relay.snapshot()
    assert {worker["color"] for worker in snapshot["workers"]} == {"blue", "green"}
    assert len({run["key"] for run in snapshot["running"]}) == 2
    workers.say(finished(), worker="b")
    relay.tick(NOW + TICK_S)
    (run,) = relay.snapshot()["running"]
    assert run["worker"] == "g"


def test_points_add_workers_up_and_hold_percentiles():
    relay, workers = relay_and_workers()
    workers.say(pulse(pairs_per_s=30.0), worker="b")
    workers.say(pulse(pairs_per_s=12.0), worker="g")
    workers.say(*[finished(str(n), latency_ms=float(n)) for n in range(100)])
    point = relay.tick(NOW + 1)[1]["point"]
    assert (point["pairs_per_s"], point["queue_pairs"], point["requests_per_s"]) == (42.0, 10, 100.0)
    assert (point["p50"], point["p95"], point["p99"]) == (50.0, 95.0, 99.0)
    assert relay.tick(NOW + 20)[1]["point"]["p50"] is None


def test_a_flood_leaves_messages_and_memory_bounded_and_failures_visible():
    relay, workers = relay_and_workers()
    workers.say(finished("the one failure", status="internal"))
    for number in range(20_000):
        workers.say(accepted(str(number)), finished(str(number)) if number % 2 else progress(str(number)))
    _, delta = relay.tick(NOW)
    assert len(delta["recent"]) == IN_DELTA["done"] + 1
    assert delta["recent"][0]["status"] == "internal"
    assert len(json.dumps(delta)) < 32_000
    snapshot = relay.snapshot()
    assert len(snapshot["running"]) == SHOWN
    assert snapshot["recent"] == delta["recent"], "a late browser lists what the others do"
    assert any(state["id"] == "the one failure" for state in snapshot["recent"])
    assert len(relay.runs.running) <= 5000
    assert relay.counts()["ignored"] > 0
    assert len(relay.runs.memory()) <= KEPT


def rejected(code="invalid_request", name="a", **more):
    told = {"dialect": "cohere", "pairs": 0, "http_status": 400, "latency_ms": 0.5}
    return Rejected(**{**told, "id": name, "code": code, **more})


def test_a_request_that_is_not_valid_is_listed_with_its_code_and_counts_in_no_latency():
    relay, workers = relay_and_workers()
    workers.say(rejected(field="documents"), rejected("payload_too_large", http_status=413))
    updates, delta = relay.tick(NOW + 1)
    told = [(each["status"], each["http_status"], each["kind"]) for each in delta["recent"]]
    assert told == [("invalid_request", 400, "refused"), ("payload_too_large", 413, "refused")]
    assert delta["recent"][0]["field"] == "documents"
    assert (delta["point"]["p50"], delta["point"]["requests_per_s"]) == (None, 0.0)
    assert len(updates) == 2, "its follower hears that it was refused"


def test_a_request_that_is_not_valid_ends_none_that_runs_under_its_id():
    relay, workers = relay_and_workers()
    workers.say(accepted())
    relay.tick(NOW)
    workers.say(rejected(), rejected("unauthorized", "b"))
    updates, delta = relay.tick(NOW + TICK_S)
    assert updates == [], "without a key, or with the id of another request, nobody ends what others follow"
    assert "ended" not in delta
    assert len(relay.snapshot()["running"]) == 1


def test_a_flood_of_rubbish_pushes_no_other_request_out():
    relay, workers = relay_and_workers()
    workers.say(finished("good"), finished("bad", status="internal"))
    relay.tick(NOW)
    for step in range(100):
        workers.say(*[rejected(name=f"r{n}") for n in range(200)])
        _, delta = relay.tick(NOW + step)
        assert len(delta["recent"]) == IN_DELTA["refused"]
    listed = [state["id"] for state in relay.snapshot()["recent"]]
    assert {"good", "bad"} <= set(listed)
    assert len(listed) == 2 + ENDED["refused"]
    assert [state["status"] for state in relay.runs.find("good", everybody_s)] == ["ok"]
    assert relay.counts()["ended"]["invalid_request"] == 20_000


def test_what_one_life_knew_the_next_one_recalls():
    relay, workers = relay_and_workers()
    workers.say(pulse(), finished("good"), finished("bad", status="internal"))
    relay.tick(NOW + 1)
    workers.say(accepted())  # what was heard since is in no snapshot
    memory = json.loads(json.dumps(relay.memory()))
    next_life = Relay(NOW + 5)
    next_life.recall(memory)
    assert {state["id"] for state in next_life.snapshot()["recent"]} == {"good", "bad"}
    assert next_life.snapshot()["points"] == relay.snapshot()["points"]
    assert next_life.counts()["ended"] == {"ok": 1, "internal": 1}


def test_a_late_follower_finds_a_running_request_before_an_ended_one():
    relay, workers = relay_and_workers()
    workers.say(finished("again", owner="me"))
    assert [state["status"] for state in relay.runs.find("again", everybody_s)] == ["ok"]
    workers.say(accepted("again", owner="me"))
    assert [state["status"] for state in relay.runs.find("again", everybody_s)] == ["running"]
    assert relay.runs.find("never", everybody_s) == []


def release(number=2, began=NOW, **more):
    return Release(number=number, color="green", what="a model", began=began, **more)


def test_a_release_is_told_whole_and_is_no_worker():
    relay, workers = relay_and_workers()
    workers.say(release(steps=[Step(name="prepare", state="running")]), worker="deploy")
    _, delta = relay.tick(NOW + TICK_S)
    assert [(each["number"], each["state"], len(each["steps"])) for each in delta["releases"]] == [(2, "running", 1)]
    assert [each["color"] for each in delta["releases"]] == ["green"], "as browsers know it, whatever the wire calls it"
    assert "workers" not in delta
    workers.say(release(state="serving"), worker="deploy")
    _, delta = relay.tick(NOW + 2 * TICK_S)
    assert [each["state"] for each in delta["releases"]] == ["serving"]
    _, delta = relay.tick(NOW + 3 * TICK_S)
    assert delta is None or "releases" not in delta
    assert len(relay.snapshot()["releases"]) == 1


def test_a_release_whose_deploy_was_killed_is_interrupted_when_another_begins():
    relay, workers = relay_and_workers()
    workers.say(release(2), worker="deploy")
    relay.tick(NOW + TICK_S)
    workers.say(release(3), worker="another")
    _, delta = relay.tick(NOW + 2 * TICK_S)
    assert {each["number"]: each["state"] for each in delta["releases"]} == {2: "interrupted", 3: "running"}


def test_a_restarted_pusher_knows_the_releases_again():
    relay, workers = relay_and_workers()
    workers.say(release(2, state="serving"), worker="deploy")
    relay.tick(NOW)
    again = Relay(NOW)
    again.recall(json.loads(json.dumps(relay.memory())))
    assert again.snapshot()["releases"] == relay.snapshot()["releases"]


def test_only_the_last_release_serves_the_others_were_replaced():
    relay, workers = relay_and_workers()
    workers.say(release(2, state="serving"), release(3, state="refused"), release(4, state="serving"), worker="deploy")
    _, delta = relay.tick(NOW)
    assert {each["number"]: each["state"] for each in delta["releases"]} == {2: "replaced", 3: "refused", 4: "serving"}
    workers.say(release(2, NOW + 9, state="rolled back"), worker="deploy")
    _, delta = relay.tick(NOW + TICK_S)
    assert {(each["number"], each["state"]) for each in delta["releases"]} == {(4, "replaced"), (2, "rolled back")}


def test_a_release_that_fails_leaves_the_one_that_serves():
    relay, workers = relay_and_workers()
    workers.say(release(2, state="serving"), release(3), release(3, state="refused"), worker="deploy")
    relay.tick(NOW)
    assert [each["state"] for each in relay.snapshot()["releases"]] == ["serving", "refused"]


def test_a_release_has_the_name_of_the_model_that_its_workers_serve():
    relay, workers = relay_and_workers()
    embedded = Serves(
        model="all-MiniLM-L6-v2", engine="native", precision="int8", release=2, substitute_for="asked/for"
    )
    workers.say(release(2), worker="deploy")
    workers.say(pulse(serves=embedded))
    workers.say(release(2, state="serving"), worker="deploy")
    _, delta = relay.tick(NOW)
    (told,) = delta["releases"]
    assert (told["state"], told["serves"]["model"], told["serves"]["substitute_for"]) == (
        "serving",
        "all-MiniLM-L6-v2",
        "asked/for",
    )
    workers.say(pulse(serves=embedded), at=NOW + 1)
    assert "releases" not in relay.tick(NOW + 1)[1], "told once"
    (worker,) = relay.snapshot()["workers"]
    assert worker["serves"]["precision"] == "int8"
