"""Each dialect's request and reply, over HTTP on the stub engine."""

import pytest
from asking import BEST_FIRST, QUERY, TEXTS, ask, post

from webapp.engine.runtimes.stub import stub_logit


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/reranking", "/v1/reranking", "/", "/invocations"])
def test_documents_get_one_reply_for_all_of_the_family(client, path):
    answer = ask(client, path, model="mine")
    assert [result["index"] for result in answer["results"]] == BEST_FIRST
    assert answer["data"] == answer["results"]
    assert set(answer["results"][0]) == {"index", "relevance_score"}
    assert (answer["object"], answer["model"]) == ("rerank", "mine")
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    tokens = {"input_tokens": answer["usage"]["total_tokens"], "output_tokens": 0}
    assert answer["meta"] == {
        "api_version": {"version": "1"},
        "billed_units": {"search_units": 1},
        "tokens": tokens,
    }
    assert answer["id"]
    assert answer["created"] > 1_700_000_000


def test_documents_are_objects_in_results_and_strings_in_data(client):
    answer = ask(client, return_documents=True)
    assert [result["document"] for result in answer["results"]] == [{"text": TEXTS[index]} for index in BEST_FIRST]
    assert [result["document"] for result in answer["data"]] == [TEXTS[index] for index in BEST_FIRST]


def test_v2_has_no_data_and_says_2(client):
    answer = ask(client, "/v2/rerank", model="m")
    assert "data" not in answer
    assert answer["meta"]["api_version"] == {"version": "2"}
    assert b"document" not in client.post("/v2/rerank", json={"query": QUERY, "documents": TEXTS}).data


@pytest.mark.parametrize("path", ["/infinity/rerank", "/api/rerank", "/rerank"])
def test_infinity_and_ollama_get_strings(client, path):
    extra = {"raw_scores": False} if path == "/rerank" else {}
    answer = ask(client, path, return_documents=True, **extra)
    assert [result["document"] for result in answer["results"]] == [TEXTS[index] for index in BEST_FIRST]


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"top_n": 2}, 2),
        ({"top_k": 2}, 2),
        ({"top_n": None, "top_k": 1}, 1),
        ({"top_n": 0}, 3),
        ({"top_n": 99}, 3),
        ({"top_n": "2"}, 2),
        ({"top_n": 1, "top_k": 2}, 1),
        ({"top_n": 2.0}, 2),
        ({}, 3),
    ],
)
def test_limits_by_any_name(client, fields, count):
    assert len(ask(client, **fields)["results"]) == count


@pytest.mark.parametrize(
    "fields",
    [
        {"return_documents": "true"},
        {"return_documents": True, "unknown": {"a": [1]}, "max_chunks_per_doc": None, "max_tokens_per_doc": None},
        {"return_documents": 1, "model": None, "user": "x", "truncate_prompt_tokens": -1},
    ],
)
def test_nulls_unknown_fields_and_strings_for_booleans_are_taken(client, fields):
    assert all("document" in result for result in ask(client, **fields)["results"])


def test_one_text_may_stand_for_a_list(client):
    answer = ask(client, documents="alone", return_documents=True)
    assert [result["document"] for result in answer["results"]] == [{"text": "alone"}]


def test_objects_are_echoed_whole_and_scored_by_their_rank_fields(client):
    documents = [{"text": "a", "title": "t", "n": 1}, {"text": "b", "title": "u"}]
    by_text = ask(client, documents=documents, return_documents=True)
    assert {result["index"]: result["document"] for result in by_text["results"]} == dict(enumerate(documents))
    by_title = ask(client, documents=documents, rank_fields=["title"])
    plain = ask(client, documents=["t", "u"])
    assert by_title["results"] == plain["results"]
    both = ask(client, documents=documents, rank_fields=["title", "text"])
    assert both["results"] == ask(client, documents=["t\na", "u\nb"])["results"]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}, "x\ny"),
        ({"text": None, "title": "t"}, '{"text":null,"title":"t"}'),
        ({"title": "t"}, '{"title":"t"}'),
        ({"text": 7}, "7"),
        ({}, "{}"),
    ],
)
def test_any_object_has_a_text(client, document, text):
    echoed = ask(client, documents=[document], return_documents=True)
    assert echoed["data"][0]["document"] == text
    assert echoed["results"][0]["document"] == (
        {**document, "text": text} if document.get("text") != text else document
    )


def test_a_query_may_be_an_object(client):
    assert ask(client, query={"text": QUERY})["results"] == ask(client)["results"]


def test_lone_surrogates_are_replaced(client):
    reply = post(client, "/v1/rerank", b'{"query": "\\ud83d", "documents": ["\\udc00"], "return_documents": true}')
    assert reply.status_code == 200
    assert reply.json["data"][0]["document"] == "\ufffd"


def test_raw_scores_by_either_name(client):
    raw = ask(client, raw_scores=True)["results"]
    assert raw == ask(client, use_activation=False)["results"]
    assert raw[0]["relevance_score"] == pytest.approx(max(map(stub_logit, TEXTS)), abs=0.002)


def test_search_units_are_hundreds_of_documents(client):
    assert ask(client, documents=["x"] * 201)["meta"]["billed_units"] == {"search_units": 3}


def test_an_instruction_without_effect_is_said(client):
    assert "instruction" in ask(client, instruction="be kind")["meta"]["warnings"][0]


def test_a_cut_document_is_said(client):
    assert "were cut" in ask(client, documents=["x" * 9000])["meta"]["warnings"][0]


# --- the others


def test_tei_gets_a_bare_list(client):
    reply = post(client, "/rerank", {"query": QUERY, "texts": TEXTS, "return_text": True})
    assert [rank["index"] for rank in reply.json] == BEST_FIRST
    assert [rank["text"] for rank in reply.json] == [TEXTS[index] for index in BEST_FIRST]
    bare = post(client, "/rerank", {"query": QUERY, "texts": TEXTS, "truncate": None, "top_n": 1}).json
    assert [set(rank) for rank in bare] == [{"index", "score"}]


def test_tei_takes_an_empty_query_but_not_two_empty_texts(client):
    assert post(client, "/rerank", {"query": "", "texts": ["a"]}).status_code == 200
    reply = post(client, "/rerank", {"query": "", "texts": ["a", ""]})
    assert (reply.status_code, reply.json["error_type"]) == (400, "Empty")


def test_predict_scores_a_pair_or_a_batch(client):
    pair = post(client, "/predict", {"inputs": [QUERY, TEXTS[0]]}).json
    assert pair[0]["label"] == "LABEL_0"
    batch = post(client, "/predict", {"inputs": [[QUERY, TEXTS[0]], ["alone"]], "raw_scores": True}).json
    assert [len(labels) for labels in batch] == [1, 1]
    assert batch[0][0]["score"] == pytest.approx(stub_logit(TEXTS[0]), abs=0.002)
    assert len(post(client, "/predict", {"inputs": "alone"}).json) == 1


@pytest.mark.parametrize("path", ["/v1/ranking", "/v1/retrieval/nvidia/some-model/reranking", "/rerank"])
def test_nim_gets_logits_in_rankings(client, path):
    passages = [{"text": text} for text in TEXTS]
    answer = post(client, path, {"model": "m", "query": {"text": QUERY}, "passages": passages}).json
    assert [entry["index"] for entry in answer["rankings"]] == BEST_FIRST
    assert answer["rankings"][0]["logit"] == pytest.approx(max(map(stub_logit, TEXTS)), abs=0.002)


def test_nim_may_limit_its_rankings_and_name_the_model_in_the_path(client):
    passages = [{"text": text} for text in TEXTS]
    assert len(post(client, "/v1/ranking", {"query": QUERY, "passages": passages, "top_k": 2}).json["rankings"]) == 2
    by_url = post(client, "/v1/retrieval/nvidia/m/reranking", {"query": QUERY, "passages": passages}).json
    assert by_url["model"] == "nvidia/m"


def test_mixedbread_gets_scores_in_data(client):
    body = {"model": "m", "query": QUERY, "input": TEXTS, "top_k": 2, "return_input": True}
    answer = post(client, "/v1/reranking", body).json
    assert [(entry["index"], entry["input"], entry["object"]) for entry in answer["data"]] == [
        (index, TEXTS[index], "rank_result") for index in BEST_FIRST[:2]
    ]
    assert (answer["object"], answer["top_k"], answer["return_input"]) == ("list", 2, True)
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("path", "headers"),
    [("/rerank", {"Api-Key": "k"}), ("/rerank", {"X-Pinecone-Api-Version": "2025-10"})],
)
def test_pinecone_is_told_by_its_headers(client, path, headers):
    documents = [{"id": str(number), "text": text} for number, text in enumerate(TEXTS)]
    answer = ask(client, path, headers, documents=documents, top_n=2, parameters={"truncate": "END"})
    assert [entry["document"] for entry in answer["data"]] == [documents[index] for index in BEST_FIRST[:2]]
    assert "score" in answer["data"][0]
    assert answer["usage"] == {"rerank_units": 1}
    assert "document" not in ask(client, path, headers, documents=documents, return_documents=False)["data"][0]


def test_pinecone_may_rank_by_a_field_named_content(client):
    headers = {"X-Pinecone-Api-Version": "2025-10"}
    documents = [{"content": text} for text in TEXTS]
    answer = ask(client, "/rerank", headers, documents=documents, rank_fields=["content"])
    assert [entry["index"] for entry in answer["data"]] == BEST_FIRST


def test_an_api_key_header_changes_the_format_only_at_pinecone_s_path(client):
    assert "results" in ask(client, "/v1/rerank", {"Api-Key": "k"})


def test_weaviate_gets_every_document_with_its_score(client):
    answer = ask(client, "/rerank", property="")
    assert [entry["document"] for entry in answer["scores"]] == TEXTS
    best = max(answer["scores"], key=lambda entry: entry["score"])
    assert best["document"] == TEXTS[BEST_FIRST[0]]


def test_librechat_sends_candidates(client):
    candidates = [{"id": str(number), "text": text, "base_score": 0.1} for number, text in enumerate(TEXTS)]
    answer = post(client, "/v1/rerank", {"profile": "p", "query": QUERY, "candidates": candidates, "top_n": 2}).json
    assert [entry["index"] for entry in answer["results"]] == BEST_FIRST[:2]


@pytest.mark.parametrize(
    "names", [("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items")]
)
def test_scores_come_in_the_order_of_the_request(client, names):
    one, other = names
    scores = [round(stub_logit(text), 2) for text in TEXTS]

    def score(first, second):
        answer = post(client, "/v1/score", {one: first, other: second, "raw_scores": True}).json
        assert [entry["index"] for entry in answer["data"]] == list(range(len(answer["data"])))
        return [round(entry["score"], 2) for entry in answer["data"]]

    assert score(QUERY, TEXTS) == pytest.approx(scores, abs=0.02)
    assert score([QUERY] * 3, TEXTS) == pytest.approx(scores, abs=0.02)
    assert score(QUERY, TEXTS[1]) == pytest.approx(scores[1:2], abs=0.02)


def test_two_queries_do_not_fit_three_documents(client):
    reply = post(client, "/score", {"text_1": ["a", "b"], "text_2": TEXTS})
    assert reply.status_code == 400
    assert "2 queries and 3 documents" in reply.json["detail"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_a_content_field_makes_a_request_native_on_every_path(client, path):
    answer = ask(client, path, documents=[{"content": "x", "metadata": {"text": "in metadata"}}, "y"])
    assert {"query", "latency_ms"} <= set(answer)


def test_a_text_beside_a_content_field_or_around_the_word_makes_no_request_native(client):
    assert "relevance_score" in ask(client, documents=[{"content": "x", "text": "y"}])["results"][0]
    assert "relevance_score" in ask(client, documents=['a string with "content" in it'])["results"][0]
