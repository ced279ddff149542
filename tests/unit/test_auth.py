import pytest

from webapp.api.auth import OPEN_PATHS, Keys, is_open
from webapp.app import create_app
from webapp.settings import Settings

BODY = {"query": "q", "documents": ["a", "b"]}


@pytest.fixture
def guarded(service):
    return create_app(
        service, request_timeout_s=30, max_body_bytes=100_000, limits={}, api_keys=["right", "other"]
    ).test_client()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer right"},
        {"Authorization": "bearer  right "},
        {"Authorization": "right"},
        {"X-Api-Key": "right"},
        {"x-api-key": "other"},
        {"Api-Key": "right"},
        {"Authorization": "Bearer wrong", "X-Api-Key": "right"},
    ],
)
def test_every_spelling_of_a_key_opens(guarded, headers):
    assert guarded.post("/rerank", json=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer right,other"},
        {"Authorization": "Basic right"},
        {"X-Api-Key": "righ"},
        {"Api-Key": "\xff"},
    ],
)
def test_any_other_is_refused_in_json(guarded, headers):
    reply = guarded.post("/rerank", json=BODY, headers=headers)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == "Bearer"
    assert "API key" in reply.json["error"]["message"]


def test_xinferences_client_is_told_to_send_its_key(guarded, client):
    assert guarded.get("/v1/cluster/auth").json == {"auth": True}
    assert client.get("/v1/cluster/auth").json == {"auth": False}


def test_a_refusal_comes_in_the_callers_dialect(guarded):
    tei = guarded.post("/rerank", json={"query": "q", "texts": ["a"]})
    assert isinstance(tei.json["error"], str)
    native = guarded.post("/rerank", json={"query": "q", "documents": [{"content": "a"}]})
    assert native.json["error"]["code"] == "unauthorized"
    voyage = guarded.post("/v1/rerank", json={"query": "q", "documents": ["a"], "truncation": True})
    assert (voyage.status_code, "error" in voyage.json) == (401, False)
    large = guarded.post("/rerank", data=b"x" * 100_001)
    assert large.status_code == 401


def test_probes_and_pages_are_open_and_all_else_is_guarded(guarded):
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json", "/docs/start.js"):
        assert guarded.get(path).status_code != 401, path
    routes = {rule.rule for rule in guarded.application.url_map.iter_rules() if "POST" in rule.methods}
    for path in routes | {"/info", "/nowhere"}:
        assert guarded.post(path, json=BODY).status_code == 401, path


def test_nothing_that_scores_is_open():
    assert not any(is_open("POST", path) for path in OPEN_PATHS)


def test_without_keys_everyone_may_call_whatever_they_send(client):
    for header in ("Bearer None", "Bearer ", "Bearer fake-api-key", ""):
        assert client.post("/rerank", json=BODY, headers={"Authorization": header}).status_code == 200


def test_keys_are_not_kept_as_they_are():
    assert "secret" not in str(vars(Keys(["secret"])))


def test_keys_are_read_from_a_comma_separated_setting(monkeypatch):
    monkeypatch.setenv("RERANK_API_KEYS", "one, two,,")
    settings = Settings()
    assert settings.api_key_list == ["one", "two"]
    assert "one" not in repr(settings)
