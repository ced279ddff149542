"""The same texts through every dialect: the same order, and the same scores where the scale is the same."""

import pytest

from webapp.api.dialects import dashscope, zeroentropy

QUERY = "how do bees find home"
TEXTS = ["milk keeps", "bees follow the sun", "", "the last train", "bees follow the sun", "naïve 🐝"]


def family(answer):
    return [(entry["index"], entry["relevance_score"]) for entry in answer["results"]]


def voyage(answer):
    return [(entry["index"], entry["relevance_score"]) for entry in answer["data"]]


def scored(answer):
    return [(entry["index"], entry["score"]) for entry in answer]


def in_request_order(scores):
    return sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))


WITH_QUERY = {"query": QUERY, "documents": TEXTS}

FORMS = {
    "native": (
        "/rerank",
        {"query": QUERY, "documents": [{"content": text} for text in TEXTS], "top_k": 0},
        {},
        lambda answer: scored(answer["results"]),
    ),
    "cohere v1, jina, vllm": ("/v1/rerank", WITH_QUERY, {}, family),
    "cohere v2": ("/v2/rerank", WITH_QUERY, {}, family),
    "voyage": ("/v1/rerank", WITH_QUERY, {}, voyage),
    "infinity": ("/infinity/rerank", WITH_QUERY, {}, family),
    "llama.cpp": ("/v1/reranking", WITH_QUERY, {}, family),
    "ollama": ("/api/rerank", WITH_QUERY, {}, family),
    "tei": ("/rerank", {"query": QUERY, "texts": TEXTS}, {}, scored),
    "mixedbread": ("/v1/reranking", {"query": QUERY, "input": TEXTS}, {}, lambda answer: scored(answer["data"])),
    "pinecone": ("/rerank", WITH_QUERY, {"Api-Key": "k"}, lambda answer: scored(answer["data"])),
    "librechat": (
        "/v1/rerank",
        {"query": QUERY, "candidates": [{"id": "x", "text": text} for text in TEXTS]},
        {},
        lambda answer: scored(answer["results"]),
    ),
    "weaviate": (
        "/rerank",
        {**WITH_QUERY, "property": ""},
        {},
        lambda answer: in_request_order([entry["score"] for entry in answer["scores"]]),
    ),
    "dashscope": (
        dashscope.PATH,
        {"input": WITH_QUERY},
        {},
        lambda answer: family(answer["output"]),
    ),
    "dashscope, newer": (dashscope.COMPATIBLE_PATH, WITH_QUERY, {}, family),
    "zeroentropy": (zeroentropy.PATH, WITH_QUERY, {}, family),
    "score": (
        "/score",
        {"text_1": QUERY, "text_2": TEXTS},
        {},
        lambda answer: in_request_order([entry["score"] for entry in answer["data"]]),
    ),
    "predict": (
        "/predict",
        {"inputs": [[QUERY, text] for text in TEXTS]},
        {},
        lambda answer: in_request_order([labels[0]["score"] for labels in answer]),
    ),
}


@pytest.fixture
def expected(client):
    body = {"query": QUERY, "documents": [{"content": text} for text in TEXTS], "top_k": 0}
    return {
        raw: scored(client.post("/rerank", json={**body, "raw_scores": raw}).json["results"]) for raw in (False, True)
    }


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_every_dialect_gives_the_same_order_and_scores(client, expected, form, raw):
    path, body, headers, read = FORMS[form]
    reply = client.post(path, json={**body, "raw_scores": raw}, headers=headers)
    assert reply.status_code == 200, reply.text
    assert read(reply.json) == expected[raw]


def test_nims_logits_are_the_raw_scores(client, expected):
    passages = [{"text": text} for text in TEXTS]
    answer = client.post("/v1/ranking", json={"query": {"text": QUERY}, "passages": passages}).json
    assert [(entry["index"], entry["logit"]) for entry in answer["rankings"]] == expected[True]
