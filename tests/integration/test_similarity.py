"""A bi-encoder's score is the similarity that the model names, as sentence-transformers itself computes it."""

import functools
import json

import numpy as np
import pytest
import small_models
from scheduling_kit import Rig
from sentence_transformers import SentenceTransformer
from small_models import texts

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.domain.types import RerankRequest
from webapp.engine.artifact import artifact_dir, read_golden
from webapp.engine.loader import load_engine
from webapp.engine.models import embedding
from webapp.engine.models.original import load_source
from webapp.engine.prepare import gate
from webapp.engine.prepare.calibration import DEFAULT_FILE, read_examples
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes import Candidate
from webapp.engine.runtimes.native import library
from webapp.servers.local import local_reranker

pytestmark = pytest.mark.filterwarnings("ignore")

SIMILARITIES = ["dot", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cosine", "euclidean", "manhattan"))]
OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}
QUERY, DOCUMENTS = "how do bees find home", texts(60)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Models with a similarity, each prepared once for an engine: its directory, the settings, the manifest."""
    place = tmp_path_factory.mktemp("similarities")
    examples = place / "examples.jsonl"  # few, for speed
    lines = [{"query": f"question {n}", "documents": texts(12, seed=n)[9:]} for n in range(6)]
    examples.write_text("\n".join(map(json.dumps, lines)))

    @functools.cache
    def build(similarity, **options):
        name = "-".join(map(str, [similarity, *options.items()]))
        return small_models.build_bi_encoder(place / name, similarity=similarity, max_length=512, **options)

    @functools.cache
    def make(similarity, engine="torch", **options):
        model = build(similarity, **options)
        precision = "int8" if engine == "native" else "fp32"
        settings = Settings(model=str(model), state_dir=place, engine=engine, precision=precision, **OPEN_GATE)
        return model, settings, prepare(settings, lambda _: None, calibration_data=examples)

    return make


def differences(settings, model):
    """Between our raw scores, in batches, and those of the original, as shares of their range."""
    engine = load_engine(settings)
    with Rig(engine, budget_tokens=512) as rig:
        ticket, waiter = rig.submit(QUERY, DOCUMENTS)
        assert waiter.wait(300)
    original = SentenceTransformer(str(model))
    theirs = original.similarity(original.encode_query([QUERY]), original.encode_document(DOCUMENTS))[0].numpy()
    assert len(set(theirs.tolist())) > 40, "a model that says the same of everything proves nothing"
    return np.abs(ticket.logits - theirs) / np.ptp(theirs)


ENGINES = ["torch", *(pytest.param(engine, marks=pytest.mark.slow) for engine in ("openvino", "native"))]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_raw_scores_are_sentence_transformers_own(prepared, similarity, engine):
    if engine == "native" and library() is None:
        pytest.skip("the native engine is not built here")
    model, settings, manifest = prepared(similarity, engine=engine)
    assert manifest.score_scale == similarity
    # Random weights are no judge of int8; another similarity would be off by more than the whole range.
    assert differences(settings, model).max() <= (0.3 if engine == "native" else 1e-4)


def test_a_model_that_names_none_is_compared_by_cosine(prepared):
    model, settings, manifest = prepared(None)
    assert manifest.score_scale == "cosine"
    assert differences(settings, model).max() <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("similarity", ["dot", "euclidean"])
def test_vectors_that_the_model_brings_to_length_1_are_compared_so(prepared, similarity, engine):
    if engine == "native" and library() is None:
        pytest.skip("the native engine is not built here")
    model, settings, manifest = prepared(similarity, normalize=True, engine=engine)
    assert manifest.unit_vectors
    assert differences(settings, model).max() <= (0.3 if engine == "native" else 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_that_the_model_truncates_are_compared_so(prepared, similarity, normalize):
    model, settings, _ = prepared(similarity, normalize=normalize, truncate_dim=12)
    assert differences(settings, model).max() <= 1e-4


@pytest.mark.skipif(library() is None, reason="the native engine is not built here")
def test_the_native_engine_leaves_truncated_vectors_to_others(prepared):
    with pytest.raises(SetupError, match="does not know this architecture"):
        prepared("cosine", engine="native", truncate_dim=12)


@pytest.mark.parametrize("named", SIMILARITIES)
def test_another_similarity_is_refused_at_every_precision(prepared, monkeypatch, named):
    model, settings, _ = prepared(named)
    source, judged = load_source(model), read_examples(DEFAULT_FILE).judged[:3]
    engine = load_engine(settings)
    engine.start(1)
    right, dot = embedding.SIMILARITIES[named], embedding.SIMILARITIES["dot"]
    wrong = {
        "cosine": lambda left, right: dot(left * 5, right * 5),
        "dot": lambda left, right: dot(unit(left), unit(right)),
        "euclidean": embedding.SIMILARITIES["manhattan"],
        "manhattan": embedding.SIMILARITIES["euclidean"],
    }[named]
    for function, refused in ((right, False), (wrong, True)):
        monkeypatch.setitem(embedding.SIMILARITIES, named, function)
        figures = gate.measure(engine, source, judged)
        for candidate in (Candidate("torch", "fp32"), Candidate("torch", "bf16"), Candidate("native", "int8")):
            if refused:
                with pytest.raises(SetupError, match="max_score_error"):
                    gate.accept(figures, candidate, Settings())
            else:
                gate.accept(figures, candidate, Settings())


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_results_are_ordered_by_the_raw_score_and_scores_are_a_map_of_it_to_0_to_1(prepared, similarity):
    _, settings, _ = prepared(similarity)
    request = RerankRequest(QUERY, DOCUMENTS, DOCUMENTS)
    with local_reranker(settings) as reranker:
        mapped = reranker.rerank(request)
        raw = reranker.rerank(RerankRequest(QUERY, DOCUMENTS, DOCUMENTS, raw_scores=True))
    assert mapped.order == raw.order
    assert raw.scores == sorted(raw.scores, reverse=True)
    assert all(0 <= score <= 1 for score in mapped.scores)
    assert np.unique(mapped.scores).size == np.unique(raw.scores).size
    assert (max(raw.scores) < 0) == (similarity in {"euclidean", "manhattan"})


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_golden_scores_are_judged_by_the_raw_score_where_its_scale_has_no_ends(prepared, similarity):
    model, settings, manifest = prepared(similarity)
    golden = read_golden(artifact_dir(settings))
    assert golden.raw == (similarity != "cosine")
    scores = np.concatenate([group.scores for group in golden.queries])
    pairs = [(group.query, document) for group in golden.queries for document in group.documents]
    original = load_source(model).reference(pairs)
    assert np.allclose(scores, original if golden.raw else (1 + original) / 2, atol=1e-5 * np.abs(original).max())
    slack = golden.tolerance / manifest.fidelity["score_range"]
    assert slack == pytest.approx(2 * manifest.fidelity["max_score_error"] + gate.GOLDEN_SLACK)
