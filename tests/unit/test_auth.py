import io

import pytest
from app_kit import create_app

from contracts.api_keys import Key, KeyRing, digest_of, line_of
from webapp.api.auth import OPEN_PATHS, is_open
from webapp.config.settings import load_settings
from webapp.service.rate_limit import Quota

BODY = {"query": "q", "documents": ["a", "b"]}


def app_with(service, keys, **quota):
    app = create_app(service, request_timeout_s=30, max_body_bytes=100_000, limits={}, keys=keys, quota=Quota(**quota))
    return app.test_client()


@pytest.fixture
def guarded(service):
    return app_with(service, KeyRing("right,other"))


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


def test_xinferences_client_learns_whether_it_needs_a_key(guarded, client):
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


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/docs", "/openapi.json", "/docs/start.js"])
def test_probes_and_pages_need_no_key(guarded, path):
    assert guarded.get(path).status_code != 401


def test_all_but_probes_and_pages_needs_a_key(guarded):
    routes = {rule.rule for rule in guarded.application.url_map.iter_rules() if "POST" in rule.methods}
    for path in routes | {"/info", "/nowhere"}:
        assert guarded.post(path, json=BODY).status_code == 401, path


def test_nothing_that_scores_is_open():
    assert not any(is_open("POST", path) for path in OPEN_PATHS)


@pytest.mark.parametrize("header", ["Bearer None", "Bearer ", "Bearer fake-api-key", ""])
def test_a_service_without_keys_ignores_the_authorization_header(client, header):
    assert client.post("/rerank", json=BODY, headers={"Authorization": header}).status_code == 200


def test_keys_are_read_from_a_comma_separated_setting_that_does_not_show_them(monkeypatch):
    monkeypatch.setenv("RERANK_API_KEYS", "k3y-planted, tw0-planted,,")
    settings = load_settings()
    keys = KeyRing(settings.api_keys.get_secret_value())
    assert [keys.find([key])[0].name for key in ("k3y-planted", "tw0-planted")] == ["setting-1", "setting-2"]
    assert keys.find([""]) is None
    assert "planted" not in repr(settings)


def test_what_came_last_in_x_forwarded_for_counts_and_what_the_caller_wrote_before_it_does_not(service):
    """It is nginx that appends the address that it sees."""
    client = app_with(service, KeyRing(), requests_per_minute=2)

    def status(forwarded):
        return client.post("/rerank", json=BODY, headers={"X-Forwarded-For": forwarded}).status_code

    assert [status(f"10.0.0.{number}, 192.0.2.1") for number in range(3)] == [200, 200, 429]
    assert status("192.0.2.1, 192.0.2.2") == 200


def test_one_ipv6_network_is_one_caller(service):
    client = app_with(service, KeyRing(), requests_per_minute=1)

    def status(address):
        return client.post("/rerank", json=BODY, headers={"X-Forwarded-For": address}).status_code

    assert [status("2001:db8::1"), status("2001:db8::2"), status("2001:db8:0:1::1")] == [200, 429, 200]


def test_two_keys_of_a_name_share_their_limit_and_each_name_may_have_its_own(service, tmp_path):
    file = tmp_path / "keys"
    known = [Key("a", digest_of("a1")), Key("a", digest_of("a2")), Key("b", digest_of("b"), documents_per_minute=100)]
    file.write_text("".join(f"{line_of(key)}\n" for key in known))
    client = app_with(service, KeyRing(file=str(file)), documents_per_minute=4)

    def status(key):
        return client.post("/rerank", json=BODY, headers={"X-Api-Key": key}).status_code

    assert [status("a1"), status("a2"), status("a1"), status("a2")] == [200, 200, 429, 429]
    assert [status("b") for _ in range(3)] == [200, 200, 200]


def test_a_batch_and_tokenize_count_their_texts_too(service):
    client = app_with(service, KeyRing(), documents_per_minute=3)
    batch = [{"query": "q", "documents": [{"content": "a"}, {"content": "b"}]}]
    assert client.post("/rerank/batch", json=batch).status_code == 200
    assert client.post("/rerank/batch", json=batch).status_code == 429
    assert client.post("/tokenize", json={"inputs": ["a", "b"]}).status_code == 429
    assert client.post("/tokenize", json={"inputs": ["a"]}).status_code == 200


def test_the_stack_s_own_key_has_no_limit(service, tmp_path):
    (tmp_path / "own.key").write_text("ours")
    client = app_with(service, KeyRing(own=tmp_path / "own.key"), requests_per_minute=1, documents_per_minute=1)
    for _ in range(3):
        assert client.post("/rerank", json=BODY, headers={"X-Api-Key": "ours"}).status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Content-Encoding": "gzip"}])
def test_a_large_or_packed_body_without_a_key_is_never_read(service, headers):
    class Body(io.BytesIO):
        def read(self, *_):
            raise AssertionError("it is read")

        readline = readinto = read

    def reader(*_):
        raise AssertionError("it is read")

    app = create_app(
        service, request_timeout_s=30, max_body_bytes=10**9, limits={}, keys=KeyRing("right"), reader=reader
    )
    size = 10 if headers else 10**8
    refused = app.test_client().post("/rerank", input_stream=Body(), headers={"Content-Length": str(size), **headers})
    assert (refused.status_code, refused.json["error"]["code"]) == (401, "unauthorized")
