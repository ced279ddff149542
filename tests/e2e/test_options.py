"""What options do to a real model's scores, through nginx."""

import pytest
import requests
from running import PATIENCE_S

QUERY = "how do bees find home"
PARTS = ["milk stays fresh cold " * 120, "train leaves at midnight " * 120, "bees find home by the sun " * 100]
LONG = " ".join(PARTS)


def ask(stack, path="/v1/rerank", **body):
    reply = requests.post(f"{stack.url}{path}", json={"query": QUERY, **body}, timeout=PATIENCE_S)
    assert reply.status_code == 200, reply.text
    return reply.json()


def score_of(stack, text, **options):
    return ask(stack, documents=[text], raw_scores=True, **options)["results"][0]["relevance_score"]


def test_a_result_names_its_best_window(stack):
    answer = ask(stack, documents=[LONG, "short"], raw_scores=True, max_chunks_per_doc=10)
    result = next(each for each in answer["results"] if each["index"] == 0)
    (span,) = result["relevant_spans"]
    assert span["score"] == result["relevance_score"]
    assert score_of(stack, LONG[span["start"] : span["end"]]) == pytest.approx(result["relevance_score"], abs=1e-3)
    assert result["relevance_score"] >= score_of(stack, LONG) - 1e-3
    assert "warnings" not in answer["meta"]


def test_cutting_at_the_left_scores_the_end(stack):
    left = score_of(stack, LONG, truncation_side="left")
    assert left != pytest.approx(score_of(stack, LONG), abs=1e-6)
    assert left == pytest.approx(score_of(stack, "word " * 3000 + LONG, truncation_side="left"), abs=1e-3)


def test_tokens_past_a_documents_limit_do_not_count(stack):
    text = "bees find home by the sun"
    tokens = ask_tokens(stack, text)
    limited = score_of(stack, text + " milk" * 50, max_tokens_per_doc=len(tokens))
    assert limited == pytest.approx(score_of(stack, text), abs=1e-4)


def ask_tokens(stack, text):
    body = {"inputs": text, "add_special_tokens": False}
    return requests.post(f"{stack.url}/tokenize", json=body, timeout=PATIENCE_S).json()[0]


def test_usage_is_the_true_number_of_tokens(stack):
    documents = ["bees find home", "milk"]
    answer = ask(stack, documents=documents)
    query = len(ask_tokens(stack, QUERY))
    assert answer["usage"]["total_tokens"] == sum(query + len(ask_tokens(stack, text)) + 3 for text in documents)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/rerank", {"documents": ["x", LONG], "truncation": False}, 400),
        ("/rerank", {"texts": ["x", LONG], "truncate": False}, 422),
        ("/v1/ranking", {"passages": ["x", LONG], "truncate": "NONE"}, 400),
    ],
)
def test_where_cutting_is_forbidden_the_error_names_the_document_that_is_too_long(stack, path, body, status):
    reply = requests.post(f"{stack.url}{path}", json={"query": QUERY, **body}, timeout=PATIENCE_S)
    assert reply.status_code == status
    tokens = len(ask_tokens(stack, QUERY)) + len(ask_tokens(stack, LONG)) + 3
    assert f"documents[1]: must have at most 512 tokens with its query, it has {tokens}" in reply.json()["detail"]


TEXTS = ["milk", "bees find home by the sun", "train", PARTS[0]]


def scores_of(stack):
    """The scores of the texts in one request that ranks them, in the order of the texts."""
    ranked = ask(stack, documents=TEXTS)["results"]
    return [score for _, score in sorted((each["index"], each["relevance_score"]) for each in ranked)]


@pytest.mark.parametrize("queries", [QUERY, [QUERY] * len(TEXTS)], ids=["one query", "a query for each text"])
def test_score_gives_pairs_the_scores_of_a_ranking(stack, queries):
    body = {"text_1": queries, "text_2": TEXTS}
    data = requests.post(f"{stack.url}/score", json=body, timeout=PATIENCE_S).json()["data"]
    assert [each["score"] for each in data] == pytest.approx(scores_of(stack), abs=1e-4)


def test_predict_gives_pairs_the_scores_of_a_ranking(stack):
    body = {"inputs": [[QUERY, text] for text in TEXTS]}
    labels = requests.post(f"{stack.url}/predict", json=body, timeout=PATIENCE_S).json()
    assert [each[0]["score"] for each in labels] == pytest.approx(scores_of(stack), abs=1e-4)


def test_warnings_and_the_mark_of_a_cut_query_pass_through_nginx(stack):
    fields = {f"raw_scores{letter}": 1 for letter in "abcdefghijklmnopqrst"} | {"rank_fields": ["é" * 40] * 5}
    body = {"query": LONG, "documents": ["short"], **fields}
    reply = requests.post(f"{stack.url}/v1/rerank", json=body, timeout=PATIENCE_S)
    assert (reply.status_code, reply.json()["results"][0]["index"]) == (200, 0)
    assert "the query was longer than what is read of it and was cut" in reply.json()["meta"]["warnings"]
    assert len(reply.raw.headers.getlist("X-Rerank-Warning")) == 8
    tei = requests.post(f"{stack.url}/rerank", json={"query": LONG, "texts": ["short"]}, timeout=PATIENCE_S)
    assert "the query was longer" in tei.headers["X-Rerank-Warning"]
