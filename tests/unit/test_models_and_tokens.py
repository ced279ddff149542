"""What clients ask before they call, and probes."""

from dataclasses import replace

import pytest
from asking import ask, post

from webapp.engine.runtimes.stub import StubEngine
from webapp.service.cache.keys import pair_keys


@pytest.mark.parametrize("path", ["/models", "/v1/models", "/infinity/models"])
def test_models_are_listed(client, path):
    answer = client.get(path).json
    assert answer["object"] == "list"
    assert answer["data"][0]["id"] == "stub"
    assert answer["data"][0]["model_type"] == "rerank"


def test_any_model_name_is_accepted_unless_the_service_is_strict(client, service):
    assert client.get("/v1/models/org/other").json["id"] == "org/other"
    service._strict_model = True
    assert client.get("/v1/models/org/other").status_code == 404
    assert client.get("/v1/models/stub").status_code == 200
    reply = post(client, "/v1/rerank", {"query": "q", "documents": ["a"], "model": "other"})
    assert (reply.status_code, reply.json["error"]["type"]) == (404, "NotFoundError")
    assert ask(client, model="stub")["model"] == "stub"
    assert ask(client)["model"] == "stub"


def test_info_is_teis_too(client):
    info = client.get("/info").json
    assert next(iter(info["model_type"])) == "reranker"
    assert info["max_client_batch_size"] == 10_000
    assert info["max_input_length"] == 512


def test_tokens_as_tei_vllm_and_llama_cpp_have_them(client):
    tei = post(client, "/tokenize", {"inputs": ["bees fly", "x"]}).json
    assert [len(text) for text in tei] == [3, 2]
    assert tei[0][0] == {"id": 0, "text": "[STUB]", "special": True, "start": None, "stop": None}
    assert tei[0][2]["text"] == " fly"
    vllm = post(client, "/tokenize", {"model": "m", "prompt": "bees", "add_special_tokens": False}).json
    assert vllm == {"count": 1, "max_model_len": 512, "tokens": [1]}
    assert post(client, "/tokenize", {"content": "bees"}).json == {"tokens": [1]}
    reply = post(client, "/tokenize", {})
    assert (reply.status_code, reply.json["error_type"]) == (422, "Validation")


@pytest.mark.parametrize("form", ["inputs", "prompt", "content"])
def test_many_tokens_are_written_as_few_are(client, monkeypatch, form):
    texts = ["twelve chars", "", "four"]
    body = {form: texts if form == "inputs" else texts[0], "return_token_strs": True}
    at_once = post(client, "/tokenize", body).data
    monkeypatch.setattr("webapp.api.dialects.tokenize._PART", 2)
    assert post(client, "/tokenize", body).data == at_once


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/live",
        "/ping",
        "/v1/health",
        "/v1/health/live",
        "/.well-known/live",
        "/version",
        "/load",
        "/meta",
        "/",
    ],
)
def test_probes_answer(client, path):
    assert client.get(path).status_code == 200


def test_slashes_do_not_matter(client):
    assert ask(client, "//v1//rerank/")["results"]


@pytest.mark.parametrize("body", [{"inputs": ["a" * 600, "b" * 600]}, {"prompt": "a" * 1200}, {"content": "a" * 1200}])
def test_more_text_than_a_reply_may_list_is_refused(client, monkeypatch, body):
    monkeypatch.setattr("webapp.api.dialects.tokenize.MOST_CHARS", 1000)
    reply = post(client, "/tokenize", body)
    assert reply.status_code == 413
    assert "1200 characters, 1000 are taken at a time" in reply.text


def test_scores_of_another_similarity_are_other_entries_of_a_cache():
    info = StubEngine.info
    other = replace(info, score_scale="dot")
    assert not set(pair_keys(info.identity, "q", ["a", "b"])) & set(pair_keys(other.identity, "q", ["a", "b"]))
