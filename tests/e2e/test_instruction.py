"""An instruction, from a caller through nginx to a decoder in torch, and the vendor's own formula beside it."""

import math
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import small_decoders
from running import PATIENCE_S, Stack

from webapp.config.settings import Settings
from webapp.engine.models.original import load_source
from webapp.engine.prepare.pipeline import prepare

pytestmark = pytest.mark.slow

QUERY = "how do bees find home"
DOCUMENTS = ["bees find home by the sun", "milk keeps three days", "the last train leaves at midnight"]
INSTRUCTION = "Find the text that says the opposite"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """Zerank's family, for it has a temperature."""
    return small_decoders.build_decoder(tmp_path_factory.mktemp("models") / "zerank", name="zeroentropy/zerank-2")


@pytest.fixture(scope="module")
def vendor(decoder):
    """Scores by the vendor's formula; takes an instruction and documents."""
    source = load_source(decoder)
    return lambda instruction, documents=DOCUMENTS: source.reference(
        [(QUERY, document) for document in documents], instruction
    ).tolist()


@pytest.fixture(scope="module")
def served(decoder, tmp_path_factory):
    """A stack with the decoder, whose operator names no instruction."""
    state_dir = tmp_path_factory.mktemp("state")
    settings = Settings(model=str(decoder), state_dir=state_dir, engine="torch", precision="fp32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(settings, lambda _: None)
    with Stack(state_dir, model=str(decoder), engine="torch") as running:
        yield running


def ask(stack, **fields):
    body = {"query": QUERY, "documents": DOCUMENTS, **fields}
    return requests.post(f"{stack.url}/v1/rerank", json=body, timeout=PATIENCE_S)


def scores(stack, **fields):
    results = ask(stack, **fields).json()["results"]
    return [score for _, score in sorted((each["index"], each["relevance_score"]) for each in results)]


def test_info_shows_a_fingerprint_of_the_scores_that_this_machine_gives(served):
    found = requests.get(f"{served.url}/info", timeout=PATIENCE_S).json()["scores_fingerprint"]
    assert re.fullmatch("[0-9a-f]{16}", found)


def test_another_instruction_gives_the_vendor_s_other_scores(served, vendor):
    for instruction in (None, INSTRUCTION, "Find milk"):
        ours = scores(served, instruction=instruction, raw_scores=True)
        assert ours == pytest.approx(vendor(instruction or ""), abs=1e-4)
        shown = scores(served, instruction=instruction)
        assert shown == pytest.approx([1 / (1 + math.exp(-each / 5)) for each in ours], abs=1e-5)
    assert vendor("") != pytest.approx(vendor(INSTRUCTION), abs=1e-2)


def test_requests_at_once_with_different_instructions_share_nothing(served, vendor):
    documents = [f"bees find home, part {number}" for number in range(20)]
    asked = [f"Find what is at place {number}" for number in range(4)] * 2
    with ThreadPoolExecutor(len(asked)) as pool:
        found = pool.map(lambda each: scores(served, instruction=each, documents=documents, raw_scores=True), asked)
    for instruction, ours in zip(asked, found, strict=True):
        assert ours == pytest.approx(vendor(instruction, documents), abs=1e-4)


@pytest.mark.parametrize("wrong", [7, "a " * 50_000], ids=["a number", "100,000 characters"])
def test_what_is_no_instruction_is_a_400_that_names_it(served, wrong):
    reply = ask(served, instruction=wrong)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "instruction"
    assert scores(served), "the next request is served"


def test_a_query_that_is_too_long_is_cut_with_a_warning(served):
    reply = ask(served, query="bees find home " * 2000, instruction=INSTRUCTION)
    assert reply.json()["meta"]["warnings"][0] == "the query was longer than what is read of it and was cut"


def test_info_names_recipe_licence_and_default(served):
    info = requests.get(f"{served.url}/info", timeout=PATIENCE_S).json()
    assert (info["instruction"], info["temperature"], info["recipe"]["name"]) == ("", 5.0, "zerank")
    assert info["recipe"]["licence"].endswith("(as its maker states; check it)")


def test_the_operator_s_instruction_is_the_default(decoder, served, vendor, tmp_path):
    own = tmp_path / "own"
    with Stack(own, artifacts_from=served.state_dir, model=str(decoder), engine="torch", instruction="Find milk") as it:
        assert scores(it, raw_scores=True) == pytest.approx(vendor("Find milk"), abs=1e-4)
        assert scores(it, raw_scores=True, instruction=INSTRUCTION) == pytest.approx(vendor(INSTRUCTION), abs=1e-4)
        assert requests.get(f"{it.url}/info", timeout=PATIENCE_S).json()["instruction"] == "Find milk"


def test_an_encoder_warns(stack):
    reply = ask(stack, instruction=INSTRUCTION)
    assert reply.json()["meta"]["warnings"] == ["instruction was ignored: this model takes none"]
    assert scores(stack, instruction=INSTRUCTION) == scores(stack)


def test_an_operator_s_instruction_for_an_encoder_is_refused_at_start(bert_settings, tmp_path):
    model, artifacts = bert_settings.model, bert_settings.state_dir
    with pytest.raises(AssertionError, match="takes no instruction; leave it empty"):
        Stack(tmp_path / "own", artifacts_from=artifacts, model=model, instruction="Find milk").start()


def test_an_operator_s_instruction_that_leaves_no_room_is_refused_at_start(decoder, served, tmp_path):
    with pytest.raises(AssertionError, match="shorten RERANK_INSTRUCTION, or raise"):
        Stack(
            tmp_path / "own",
            artifacts_from=served.state_dir,
            model=str(decoder),
            engine="torch",
            instruction="Find milk " * 2000,
        ).start()
