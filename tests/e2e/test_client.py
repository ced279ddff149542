"""The client against the real service: what it gives, and the examples of client/README.md as they stand there."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests
from reranking_client import CallFailedError, Question, RefusedError, RerankClient
from running import PATIENCE_S, wait_for

PAGE = (Path(__file__).resolve().parents[2] / "client" / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

TEXTS = [f"bees find home by the sun number {number}" for number in range(40)] + ["milk"] * 5


def test_the_page_has_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_runs(stack, code):
    environment = {**os.environ, "RERANK_URL": stack.url}
    outcome = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.strip()


def test_a_split_list_is_ordered_as_one_request_would(stack):
    with RerankClient(stack.url) as whole, RerankClient(stack.url, split_documents=7) as split:
        expected = whole.rerank("how do bees find home", TEXTS)
        got = split.rerank("how do bees find home", TEXTS)
        best = split.rerank("how do bees find home", TEXTS, top_n=4)
        raw = split.score("how do bees find home", TEXTS, raw_scores=True)
    assert [each.score for each in got.results] == pytest.approx([each.score for each in expected.results], abs=1e-4)
    assert sorted(each.index for each in got.results) == list(range(45))
    assert [each.index for each in best.results] == [each.index for each in got.results[:4]]
    by_index = {each.index: each.score for each in expected.results}
    assert sorted(range(45), key=lambda index: raw[index]) == sorted(range(45), key=by_index.__getitem__)
    reply = stack.rerank([{"content": each} for each in TEXTS], body={"top_k": 0}).json()
    assert [each["index"] for each in reply["results"]] == [each.index for each in expected.results]


def test_refusals_have_the_service_s_own_words(stack):
    with RerankClient(stack.url) as client:
        with pytest.raises(RefusedError, match="query: must not be blank") as failed:
            client.rerank(" ", ["x"])
        assert (failed.value.status, len(failed.value.tries)) == (400, 1)
        good, bad = client.rerank_batch([Question("q", ["x"]), Question("q", [])])
        assert good.results[0].content == "x"
        assert isinstance(bad, RefusedError)
        # Too late, or known to become so.
        with pytest.raises(CallFailedError, match=r"gave no answer in \S+ s| s left"):
            client.rerank("q", [f"late {number}" for number in range(5000)], timeout_s=0.2)


def test_a_follower_sees_a_request_until_its_end(stack):
    def streams():
        return requests.get(f"{stack.url}/progress", timeout=PATIENCE_S).json()["streams"]

    before, told = streams(), []
    with RerankClient(stack.url) as client:
        follower = threading.Thread(target=lambda: told.extend(client.follow("by-client", timeout_s=PATIENCE_S)))
        follower.start()
        wait_for(lambda: streams() > before, "the stream is open")
        ranking = client.rerank("bees", [f"fresh text {number}" for number in range(300)], request_id="by-client")
        follower.join(PATIENCE_S)
    assert ranking.request_id == "by-client"
    assert (told[-1].status, told[-1].scored, told[-1].pairs) == ("ok", 300, 300)
