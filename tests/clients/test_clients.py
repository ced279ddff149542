"""Clients from PyPI, in environments of their own, against the real service through nginx."""

import json
from pathlib import Path

import environment
import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

pytestmark = pytest.mark.conformance

QUERY = "how do bees find home"
DOCUMENTS = ["milk stays fresh cold", "bees find home by the sun", "train leaves at midnight", "naïve café привет 🐝"]
KEY = "a-key"
FAULTY = str(Path(__file__).parents[1] / "services" / "faulty")

CLIENT_FORMS = 47
"""Clients, and ways into them, that are run."""

NO_DOCUMENTS = {
    "cohere 5, v2",
    "cohere 5, v2, async",
    "cohere 7, v2",
    "cohere 7, v2, async",
    "langchain-community JinaRerank",
    "langchain-community InfinityRerank",
    "voyageai",
    "voyageai, async",
    "zeroentropy",
    "zeroentropy, async",
}
"""Their format or their interface has no documents in a reply; voyageai puts its own copies there."""

LOGITS = ("nvidia", "nvidia_nim")
"""NIM's scores are the model's own numbers."""


@pytest.fixture(scope="module")
def guarded(bert_settings, tmp_path_factory):
    """A stack with a key."""
    state = tmp_path_factory.mktemp("guarded")
    with Stack(state, artifacts_from=bert_settings.state_dir, model=bert_settings.model, api_keys=KEY) as running:
        yield running


SCRIPTS = {"-vendors": "vendors.py", "-haystack": "haystacks.py", "-infinity": "infinities.py", "": "others.py"}
"""Environment -> what runs in it."""


@pytest.fixture(scope="module")
def environments():
    """Made before anything waits for them: that may take ten minutes."""
    return [environment.python_of(name) for name in SCRIPTS]


@pytest.fixture(scope="module")
def full(tmp_path_factory, environments):  # noqa: ARG001 - they are made first
    """A stack that takes one request at a time, and has one that lasts longer than these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", FAULTY)
        patient = {"engine_stall_s": "3600", "request_timeout_s": "3600"}
        with Stack(
            tmp_path_factory.mktemp("full"), engine="stub", api_keys=KEY, max_ongoing_requests="1", **patient
        ) as running:
            held = running.raw()
            body = json.dumps({"query": "hang", "documents": ["x"]})
            head = f"POST /rerank HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
            held.sendall((head + body).encode())
            wait_for(lambda: load(running) == 1, "the request is at work")
            yield running
            held.close()


def load(stack):
    """Requests at work."""
    return requests.get(f"{stack.url}/load", headers={"X-Api-Key": KEY}, timeout=PATIENCE_S).json()["server_load"]


@pytest.fixture(scope="module")
def said(guarded, full):
    """(client, situation) -> what happened."""
    argument = json.dumps(
        {
            "url": guarded.url,
            "full_url": full.url,
            "key": KEY,
            "query": QUERY,
            "documents": DOCUMENTS,
            "names": [],
        }
    )
    here = Path(__file__).parent
    output = "".join(environment.run(name, here / script, argument) for name, script in SCRIPTS.items())
    lines = [json.loads(line[1:]) for line in output.splitlines() if line.startswith("@")]
    return {(line["client"], line["situation"]): line for line in lines}


@pytest.fixture(scope="module")
def expected(guarded):
    """Scores by our own dialect: {index: (score, logit)}."""
    scores = []
    for raw in (False, True):
        body = {"query": QUERY, "documents": [{"content": text} for text in DOCUMENTS], "top_k": 0, "raw_scores": raw}
        reply = requests.post(f"{guarded.url}/rerank", json=body, headers={"X-Api-Key": KEY}, timeout=PATIENCE_S)
        scores.append({result["index"]: result["score"] for result in reply.json()["results"]})
    return {index: (scores[0][index], scores[1][index]) for index in scores[0]}


def test_every_client_ranks_as_we_do(said, expected):
    best_first = sorted(expected, key=lambda index: -expected[index][0])
    clients = sorted({name for name, _ in said})
    assert len(clients) == CLIENT_FORMS
    for name in clients:
        for situation in ("plain", "echo"):
            line = said[name, situation]
            assert "error" not in line, line
            assert [index for index, *_ in line["results"]] == best_first, line
            for index, score, document in line["results"]:
                assert score == pytest.approx(expected[index][name.endswith(LOGITS)], abs=1e-4), line
                if situation == "echo" and name not in NO_DOCUMENTS:
                    assert document == DOCUMENTS[index], line


SWALLOWED = {
    "llama-index nvidia": "tells the status alone",
    "llama-index dashscope": "looks for results and fails on None",
    "llama-index tei": "asserts on the number of entries before it looks at an error",
    "langchain-community InfinityRerank": "the client returns None for any status but 200 and 422",
    "infinity-client": "the client returns None for any status but 200 and 422",
    "rerankers, cohere": "looks for results and fails on the key",
    "rerankers, jina": "looks for results and fails on the key",
    "rerankers, voyage": "looks for data and fails on the key",
    "rerankers, mixedbread.ai": "looks for data and fails on the key",
    "rerankers, pinecone": "looks for data and fails on the key",
    "rerankers, text-embeddings-inference": "iterates over the error",
}
"""Clients that show no server's message; they still fail, which is all they can."""


SEEN_BY_ITSELF = {("pinecone", "bad"): "refuses a blank query before it asks anyone"}


@pytest.mark.parametrize(
    ("situation", "message"),
    [
        ("bad", "query: "),  # must not be blank; TEI: query and text can't both be empty
        ("unauthorized", "no valid API key"),
        ("full", "the limit is 1"),
    ],
)
def test_an_error_arrives_in_the_clients_own_exception_with_our_message(said, situation, message):
    silent = []
    for name in sorted({name for name, _ in said}):
        line = said[name, situation]
        told = message in line.get("message", "") or name in SWALLOWED or (name, situation) in SEEN_BY_ITSELF
        if "error" not in line or not told:
            silent.append(line)
    assert not silent
