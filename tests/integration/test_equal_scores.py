"""A score of the native engine is equal to the bit in every batch, on every processor; a fingerprint shows it."""

import numpy as np
import pytest
import small_decoders
import small_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_kit import needs_kernels
from running import PATIENCE_S
from scheduling_kit import Rig

from webapp.config.settings import Settings
from webapp.engine.artifact import PACKED_MODEL, TOKENIZER, artifact_dir
from webapp.engine.base import score_pair
from webapp.engine.loader import ModelEngine, load_engine
from webapp.engine.prepare import pipeline
from webapp.engine.runtimes import native

pytestmark = [pytest.mark.filterwarnings("ignore"), needs_kernels]

OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}
WORDS = "how do bees find home the sun flowers far near wind rain field hive wax".split()


@pytest.fixture(scope="module", params=["encoder", "decoder"])
def prepared(request, tmp_path_factory):
    """An artifact's directory and its manifest."""
    home = tmp_path_factory.mktemp("prepared")
    if request.param == "encoder":
        model = small_models.build_bert(home / "model")
    else:
        model = small_decoders.build_decoder(home / "Qwen3-Reranker-small", "Qwen3ForCausalLM")
    asked = Settings(model=str(model), state_dir=home, engine="native", **OPEN_GATE)
    return artifact_dir(asked), pipeline.prepare(asked, lambda _: None), load_engine(asked)


@given(
    requests=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 120), min_size=1, max_size=12)), min_size=1, max_size=6
    ),
    budget_tokens=st.sampled_from([16, 100, 256, 1024]),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_score_does_not_depend_on_what_else_waits(prepared, requests, budget_tokens):
    _, _, engine = prepared
    asked = [
        (" ".join(WORDS[query : query + 5]), [" ".join(np.resize(WORDS[size % 7 :], size)) for size in sizes])
        for query, sizes in requests
    ]
    rig = Rig(engine, budget_tokens=budget_tokens)
    submitted = [rig.submit(query, documents) for query, documents in asked]
    with rig:
        for ticket, waiter in submitted:
            assert waiter.wait(PATIENCE_S), ticket
    alone = engine.open_session()
    for (query, documents), (ticket, _) in zip(asked, submitted, strict=True):
        assert ticket.succeeded
        assert ticket.logits.tolist() == [score_pair(alone, query, document) for document in documents]


def fingerprint(prepared, instructions="", change=lambda logits: logits):
    directory, manifest, _ = prepared
    runtime = native.NativeRuntime(directory / PACKED_MODEL, instructions)
    engine = ModelEngine(manifest, runtime, directory / TOKENIZER)
    forward = runtime.open()
    return engine.scores_fingerprint(engine.open_session(lambda *batch: change(forward(*batch))))


def test_the_fingerprint_of_scores_is_the_same_with_every_instruction_set(prepared):
    found = {fingerprint(prepared, name) for name in native.instruction_sets()}
    assert len(found) == 1
    assert len(found.pop()) == 16


def test_the_fingerprint_of_scores_differs_where_a_score_does_in_its_last_bit(prepared):
    assert fingerprint(prepared, change=lambda logits: np.nextafter(logits, np.float32(9))) != fingerprint(prepared)
