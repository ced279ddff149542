import asyncio
import json
import subprocess
import sys

import pytest
from asgi_kit import body_of, receives, run, scope_of

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.runtimes.stub import StubEngine
from webapp.servers import assembly
from webapp.servers.ray import replica
from webapp.servers.ray.replica import Replica, replica_settings


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The stub engine, by the environment."""
    monkeypatch.setenv("RERANK_ENGINE", "stub")
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path))


def asked(replica, documents=("a", "b", "c"), path="/rerank", **options):
    return replica.answer(scope_of(path=path), receives(body_of(documents, **options)))


def test_user_config_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("RERANK_MAX_DOCUMENTS", "100")
    monkeypatch.setenv("RERANK_STRICT_MODEL", "true")
    settings = replica_settings({"max_documents": 7}, engine_threads=1)
    assert (settings.max_documents, settings.strict_model) == (7, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_document": 7}, "user_config: max_document is no setting; did you mean max_documents"),
        ({"port": 7}, "user_config: port is not a replica's; RERANK_PORT may be"),
        ({"max_documents": "many"}, "max_documents in user_config: .*many"),
        ({"max_queued_pairs": 5}, "RERANK_MAX_QUEUED_PAIRS .* is below"),
    ],
)
def test_an_error_in_user_config_names_its_place(changes, message):
    with pytest.raises(SetupError, match=message):
        replica_settings(changes, engine_threads=1)


def test_a_replica_has_threads_for_its_cores_and_no_pusher_unless_variables_say_otherwise(monkeypatch):
    settings = replica_settings({}, engine_threads=3)
    assert (settings.engine_threads, settings.events) == (3, False)
    monkeypatch.setenv("RERANK_ENGINE_THREADS", "2")
    monkeypatch.setenv("RERANK_EVENTS_ENDPOINT", "tcp://127.0.0.1:1")
    settings = replica_settings({}, engine_threads=3)
    assert (settings.engine_threads, settings.events) == (2, True)


def test_what_the_environment_has_is_the_same_object_of_settings(monkeypatch):
    monkeypatch.setenv("RERANK_EVENTS", "true")
    assert replica_settings({}, engine_threads=1).model_dump() == Settings(engine_threads=1, events=True).model_dump()


@pytest.mark.usefixtures("small")
def test_a_replica_is_healthy_once_it_answers():
    async def main():
        replica = Replica(engine_threads=1)
        with pytest.raises(RuntimeError, match="nothing is configured"):
            replica.check_health()
        await replica.configure({})
        replica.check_health()
        reply = await asked(replica)
        assert (reply.status, len(json.loads(reply.body)["results"])) == (200, 3)
        await replica.leave()
        with pytest.raises(RuntimeError, match="draining"):
            replica.check_health()

    run(main())


@pytest.mark.usefixtures("small")
def test_a_fault_of_the_engine_makes_it_unhealthy():
    async def main():
        replica = Replica(engine_threads=1)
        await replica.configure({"engine_stall_s": 1})
        replica._serving._broken("an engine thread died")
        with pytest.raises(RuntimeError, match="an engine thread died"):
            replica.check_health()
        await replica.leave()

    run(main())


@pytest.mark.usefixtures("small")
def test_a_replica_whose_engine_is_lost_answers_503_at_once_until_it_is_replaced(monkeypatch):
    monkeypatch.setattr(assembly, "WATCH_S", 0.01)

    async def main():
        lost = asyncio.Event()
        monkeypatch.setattr(assembly.Watchdog, "fault", lambda _: lost.set() or "an engine thread died")
        replica = Replica(engine_threads=1)
        await replica.configure({})
        await lost.wait()
        assert (await asked(replica)).status == 503
        await replica.leave()

    run(main())


@pytest.mark.usefixtures("small")
def test_limits_change_between_two_requests_and_known_scores_stay():
    async def main():
        replica = Replica(engine_threads=1)
        await replica.configure({})
        first = replica._serving
        assert (await asked(replica)).status == 200
        await replica.configure({"max_documents": 3})
        assert (await asked(replica, ["a", "b", "c", "d"])).status == 400
        again = await asked(replica)
        assert again.status == 200
        assert replica._serving.webapp.service.scoring.cache is first.webapp.service.scoring.cache
        assert first.webapp.service.scoring.cache.hits == 3
        second = replica._serving
        await replica.configure({"max_documents": 3})
        assert replica._serving is second, "nothing changed"
        await replica.leave()

    run(main())


def test_a_change_of_limits_keeps_the_engine_unless_its_model_was_retrained_in_place(monkeypatch, tmp_path):
    model, loaded = tmp_path / "model", []
    model.mkdir()
    for name, value in {"ENGINE": "native", "MODEL": model, "STATE_DIR": tmp_path / "own"}.items():
        monkeypatch.setenv(f"RERANK_{name}", str(value))

    async def prepared(_settings):
        pass

    monkeypatch.setattr(replica, "prepare", prepared)
    monkeypatch.setattr(replica, "load_engine", lambda _settings: loaded.append(StubEngine()) or loaded[-1])

    async def main():
        served = Replica(engine_threads=1)
        await served.configure({})
        await served.configure({"max_documents": 3})
        assert len(loaded) == 1
        (model / "weights").write_bytes(b"retrained in place")
        await served.configure({"max_documents": 4})
        assert served._serving.webapp.engine is loaded[1]
        await served.leave()

    run(main())


@pytest.mark.usefixtures("small")
def test_a_request_that_began_before_a_change_is_answered_by_the_old_settings():
    async def main():
        replica = Replica(engine_threads=1)
        await replica.configure({})
        first = replica._serving
        go_on = asyncio.Event()

        async def slow_body():
            await go_on.wait()
            return {"type": "http.request", "body": body_of("abcd"), "more_body": False}

        early = asyncio.create_task(replica.answer(scope_of(), slow_body))
        await asyncio.sleep(0)
        await replica.configure({"max_documents": 3})
        assert (await asked(replica, "abcd")).status == 400
        assert not first.webapp.scheduler._closed
        go_on.set()
        assert (await early).status == 200
        await replica.leave()
        assert first.webapp.scheduler._closed

    run(main())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "wrong",
    [{"max_documents": -1}, {"engine": "native", "model": "no/such-model", "gate_min_tau": 1}],
    ids=["a wrong value", "a model that does not exist"],
)
def test_what_cannot_be_served_changes_nothing(wrong):
    async def main():
        replica = Replica(engine_threads=1)
        await replica.configure({})
        with pytest.raises(SetupError):
            await replica.configure(wrong)
        replica.check_health()
        assert (await asked(replica)).status == 200
        await replica.leave()

    run(main())


def test_nothing_that_serves_without_gevent_imports_it():
    code = (
        "import sys, webapp.servers.ray.replica, contracts.logging.configure;"
        "sys.exit('gevent' in sys.modules or 'gunicorn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
