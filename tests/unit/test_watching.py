"""What observers are told of requests that were never admitted, and of our own programs' trials."""

import pytest
from app_kit import create_app

from contracts.api_keys import SYNTHETIC_HEADER, KeyRing, make_own, own_key
from contracts.events import Finished, Rejected, Shed, owner_of
from webapp.config.settings import Settings
from webapp.engine.runtimes.stub import StubEngine
from webapp.scheduling.admission import Admission
from webapp.servers.gunicorn.bridge import GeventWaiter
from webapp.service.inflight import InflightScores
from webapp.service.rate_limit import Quota
from webapp.service.reranker import RerankService
from webapp.stack.local_client import ColorApi
from webapp.telemetry.observer import Observer, Observers
from webapp.telemetry.progress import ProgressEvents

BODY = {"query": "q", "documents": [{"content": "a"}, {"content": "b"}]}


class Watched:
    """The API with all its observers."""

    def __init__(self, rig, tmp_path, keys="", **quota):
        self.own = tmp_path / "own.key"
        make_own(self.own)
        self.told, self.replies = [], []
        progress, replies = ProgressEvents(self.told.append), Observer()
        replies.replied = self.replies.append
        self.admission = Admission(max_ongoing_requests=1)
        self.service = RerankService(
            model=StubEngine.info,
            scoring=InflightScores(scheduler=rig.scheduler, cache=None, artifact="stub", make_waiter=GeventWaiter),
            admission=self.admission,
            max_documents=100,
            texts=StubEngine().texts,
            observer=progress,
        )
        app = create_app(
            self.service,
            request_timeout_s=30,
            max_body_bytes=10_000,
            limits={},
            keys=KeyRing(keys, own=self.own),
            quota=Quota(**quota),
            observer=Observers(replies, progress),
        )
        self.client = app.test_client()

    def post(self, body=BODY, path="/rerank", **headers):
        options = {"data": body} if isinstance(body, bytes) else {"json": body}
        return self.client.post(
            path, headers={name.replace("_", "-"): text for name, text in headers.items()}, **options
        )


@pytest.fixture
def watched(stub_rig, tmp_path):
    return Watched(stub_rig, tmp_path)


def test_a_request_that_is_not_valid_is_told_with_its_code_and_status_and_no_text(watched):
    watched.post(b'{"query": "topsecret', X_Request_Id="broken")
    watched.post({"query": "topsecret", "documents": 3}, X_Request_Id="wrong")
    watched.post(b"x" * 20_000, X_Request_Id="large")
    watched.post(path="/rerankk", X_Request_Id="lost")
    assert all(isinstance(event, Rejected) for event in watched.told)
    assert [(event.id, event.code, event.http_status) for event in watched.told] == [
        ("broken", "invalid_request", 400),
        ("wrong", "invalid_request", 400),
        ("large", "payload_too_large", 413),
        ("lost", "not_found", 404),
    ]
    assert "documents" in watched.told[1].field
    assert "topsecret" not in str(watched.told)


def test_a_request_without_a_key_and_one_over_its_limit_are_told(stub_rig, tmp_path):
    watched = Watched(stub_rig, tmp_path, keys="mine", requests_per_minute=1)
    watched.post(X_Request_Id="anonymous")
    for name in ("first", "second"):
        watched.post(X_Request_Id=name, X_Api_Key="mine")
    told = [(event.id, getattr(event, "code", "ok"), event.owner) for event in watched.told]
    assert told == [
        ("anonymous", "unauthorized", ""),
        ("first", "ok", owner_of("mine")),
        ("second", "rate_limited", owner_of("mine")),
    ]


def test_each_request_is_told_once_however_it_ends(watched):
    watched.post()
    watched.post({**BODY, "documents": [{"content": "x"}] * 101})
    with watched.admission.arrive(0):
        watched.post()
    watched.post(b"{")
    assert [type(event) for event in watched.told] == [Finished, Finished, Shed, Rejected]


def test_probes_pages_and_tokens_are_no_requests(watched):
    watched.client.get("/nowhere")
    watched.client.get("/rerank")
    watched.post({"inputs": 3}, path="/tokenize")
    assert watched.told == []


def test_a_request_s_phases_and_tokens_are_told(watched):
    watched.post()
    (event,) = watched.told
    assert event.tokens > 0
    assert event.score_ms > 0
    assert event.queue_ms + event.tokenise_ms + event.score_ms <= event.latency_ms + 0.01


@pytest.mark.parametrize("body", [BODY, b"{"])
def test_our_own_trials_are_not_reported(watched, body):
    own = own_key(watched.own)
    watched.post(body, X_Api_Key=own, **{SYNTHETIC_HEADER: "1"})
    with watched.admission.arrive(0):
        watched.post(X_Api_Key=own, **{SYNTHETIC_HEADER: "1"})
    assert (watched.told, watched.replies) == ([], [])


def test_a_request_of_an_operator_by_the_stack_s_own_key_is_told(watched):
    watched.post(X_Api_Key=own_key(watched.own))
    assert len(watched.told) == len(watched.replies) == 1


@pytest.mark.parametrize("keys", ["", "mine"])
@pytest.mark.parametrize("sent", ["mine", "", "guessed"])
def test_no_client_can_hide_its_requests(stub_rig, tmp_path, keys, sent):
    watched = Watched(stub_rig, tmp_path, keys)
    watched.post(X_Api_Key=sent, **{SYNTHETIC_HEADER: "1"})
    assert len(watched.told) == len(watched.replies) == 1


def test_what_a_deploy_asks_of_a_color_is_marked(tmp_path):
    settings = Settings(state_dir=tmp_path)
    settings.run_dir.mkdir()
    make_own(settings.own_key)
    assert ColorApi(settings, "blue")._headers == {"X-Api-Key": own_key(settings.own_key), SYNTHETIC_HEADER: "1"}
