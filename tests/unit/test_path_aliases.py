"""Paths that clients make of a base address."""

import pytest
from asking import ask, post

from webapp.api.app import ENDPOINTS, normalize_path
from webapp.api.errors import nearest_path


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v2/v2/rerank", "/v2/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/api/v1/rerank", "/v1/rerank"),
        ("/api/v1/reranking", "/v1/reranking"),
        ("/openai/v1/rerank", "/v1/rerank"),
        ("//api//v1/rerank/", "/v1/rerank"),
    ],
)
def test_a_base_address_with_a_version_or_a_prefix_in_it_is_answered_as_the_path_that_was_meant(client, path, meant):
    found, expected = ask(client, path, return_documents=True), ask(client, meant, return_documents=True)
    assert found["results"] == expected["results"]
    assert found["meta"] == expected["meta"]
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("path", ["/v1/v1/models", "/api/v1/models", "/openai/v1/models", "/api/v1/health"])
def test_what_clients_ask_before_they_call_is_there_too(client, path):
    assert client.get(path).status_code == 200


def test_a_doubled_version_is_one_path_for_the_log_and_needs_a_key_like_it(client, caplog):
    caplog.set_level("INFO")
    ask(client, "/v1/v1/rerank")
    (line,) = [record for record in caplog.records if record.name == "webapp.access"]
    assert line.path == "/v1/rerank"


@pytest.mark.parametrize("path", sorted({endpoint.split()[1] for endpoint in ENDPOINTS}))
def test_a_path_of_ours_stays_what_it_is(path):
    assert normalize_path(path) == path
    assert normalize_path(f"{path}/").rstrip("/") == path.rstrip("/")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/foo/rerank", "/rerank"),
        ("/foo/v1/rerank", "/v1/rerank"),
        ("/rerank/rerank/", "/rerank"),
        ("/v1/rerank/v1/rerank", "/v1/rerank"),
        ("/v3/rerank", "/rerank"),
        ("/v1/tokenize", "/tokenize"),
        ("/x/infinity/rerank", "/infinity/rerank"),
    ],
)
def test_a_path_that_ends_in_a_known_name_says_which_was_meant(client, method, path, meant):
    reply = client.get(path) if method == "GET" else post(client, path, {"query": "q"})
    assert reply.status_code == 404
    assert f"did you mean {meant}? GET / lists" in reply.json["detail"]


@pytest.mark.parametrize("path", ["/nowhere", "/reranked", "/foorerank", "/rerank/x", "/v1/embeddings"])
def test_other_paths_get_no_suggestion(client, path):
    reply = client.get(path)
    assert (reply.status_code, "did you mean" in reply.json["detail"]) == (404, False)


def test_the_root_is_never_what_was_meant():
    assert nearest_path("/foo/", {"/"}) is None
