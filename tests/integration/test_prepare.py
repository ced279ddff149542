"""Real conversion, real engines, compared with sentence-transformers itself."""

import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import small_models
from running import PATIENCE_S
from scheduling_kit import Rig
from small_models import texts

from webapp.config.settings import Settings
from webapp.domain.errors import EngineLostError, SetupError
from webapp.domain.ranking import to_scores
from webapp.engine.artifact import MANIFEST, artifact_dir, read_manifest, sha256_of
from webapp.engine.loader import load_engine
from webapp.engine.models.original import load_source
from webapp.engine.models.source import SourceModel
from webapp.engine.prepare import gate, pipeline
from webapp.engine.prepare.calibration import read_examples
from webapp.engine.prepare.resolve import EMBEDDED_MODEL, _embedded
from webapp.engine.runtimes import Candidate
from webapp.engine.runtimes.native import library
from webapp.engine.runtimes.openvino import has_bf16, has_fast_int8

pytestmark = pytest.mark.filterwarnings("ignore")


def prepared(tmp_path, model, **options):
    settings = Settings(model=str(model), state_dir=tmp_path, **options)
    return settings, pipeline.prepare(settings, lambda _: None)


def largest_score_error(settings, model, threads=2):
    """Between what a client gets from us, batched and mixed, and what sentence-transformers gives; 80 pairs.

    With no more than one thread, and all submitted before it starts, the batches are the same each time.
    """
    documents = texts(20)
    queries = ["how do bees find home", "駅 🐝", "which words matter " * 200, " "]
    engine = load_engine(settings)
    scale = engine.info.score_scale
    rig = Rig(engine, budget_tokens=512, threads=threads)
    submitted = [rig.submit(query, documents) for query in queries]
    with rig:
        for ticket, waiter in submitted:
            assert waiter.wait(PATIENCE_S), ticket
    ours = np.concatenate([ticket.logits for ticket, _ in submitted])
    theirs = load_source(Path(model)).reference([(query, document) for query in queries for document in documents])
    assert len(ours) == 80
    assert len(set(ours.tolist())) > 20, "a model that says the same of everything proves nothing"
    return np.abs(to_scores(ours, scale, raw=False) - to_scores(theirs, scale, raw=False)).max()


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("shape", ["bert", "xlm_roberta"])
def test_fp32_scores_are_sentence_transformers_own(request, tmp_path, shape, engine):
    model = request.getfixturevalue(shape)
    settings, manifest = prepared(tmp_path, model, precision="fp32", engine=engine)
    assert manifest.fidelity["max_score_error"] <= 1e-4
    assert largest_score_error(settings, model) <= 1e-4


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_bf16_scores_are_close(bert, tmp_path, engine):
    if engine == "openvino" and not has_bf16():
        pytest.skip("this processor has no bf16 instructions")
    settings, _ = prepared(tmp_path, bert, precision="bf16", engine=engine)
    # Random weights are spread wider than trained ones, and which pairs share a batch changes how bf16 rounds.
    assert largest_score_error(settings, bert, threads=1) <= 5e-2


@pytest.mark.slow
def test_a_trained_cross_encoder_scores_as_the_original(shared_data, tmp_path):
    model = shared_data / "cranfield-ce"
    settings, _ = prepared(tmp_path, model, precision="fp32")
    assert largest_score_error(settings, model) <= 1e-4


@pytest.mark.slow
def test_the_embedded_model_scores_as_the_original(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    settings = Settings(state_dir=tmp_path, precision="fp32")
    lines = []
    manifest = pipeline.prepare(settings, lines.append)
    assert (manifest.model, manifest.kind) == (EMBEDDED_MODEL, "embedding")
    assert manifest.substitute_for == settings.model
    assert any("in its place" in line for line in lines)
    assert largest_score_error(settings, manifest.source) <= 1e-4


def test_bf16_is_refused_where_the_processor_lacks_it(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_bf16", lambda: False)
    with pytest.raises(SetupError, match="no bf16 instructions"):
        prepared(tmp_path, bert, precision="bf16")


def test_a_second_prepare_finds_the_first_ones_artifact(bert_settings):
    lines = []
    assert pipeline.prepare(bert_settings, lines.append) is not None
    assert lines == []


def test_texts_that_are_framed_in_another_way_are_refused_and_nothing_is_left(bert, tmp_path, monkeypatch):
    honest = SourceModel._compute
    monkeypatch.setattr(SourceModel, "_compute", lambda *given: honest(*given) + 3)
    with pytest.raises(
        SetupError, match=r"scores are not the original's, by up to 3, of the same tokens; the likely cause: its head"
    ):
        prepared(tmp_path, bert, precision="fp32")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_scores_that_differ_are_refused_with_the_figures_and_nothing_is_left(bert, tmp_path):
    with pytest.raises(SetupError, match=r"differs too much .*max_score_error 0\.\d+ \(at most 1e-06\)"):
        prepared(tmp_path, bert, engine="native", precision="int8", gate_max_score_error=1e-6)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


INT8 = Candidate("openvino", "int8")
FIGURES = {"max_score_error": 0.0, "mean_score_error": 0.0, "kendall_tau": 1.0, "top10_overlap": 1.0}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("name", "value"), [("max_score_error", 0.9), ("max_score_error", float("nan"))])
def test_the_gate_names_what_failed(precision, name, value):
    with pytest.raises(SetupError, match=f"openvino {precision} differs too much .*{name}"):
        gate.accept({**FIGURES, name: value}, Candidate("openvino", precision), Settings())


@pytest.mark.parametrize("name", ["mean_score_error", "kendall_tau", "top10_overlap"])
def test_the_gate_judges_rankings_of_reduced_precisions(name):
    gate.accept(FIGURES, INT8, Settings())
    with pytest.raises(SetupError, match=name):
        gate.accept({**FIGURES, name: 0.5}, INT8, Settings())


def test_the_gate_is_set_by_settings():
    gate.accept({**FIGURES, "kendall_tau": 0.5}, INT8, Settings(gate_min_tau=0.4))


OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}


@pytest.mark.slow
def test_int8_is_prepared_and_judged_on_pairs_it_was_not_calibrated_with(bert, tmp_path):
    """A random model is no judge of int8's fidelity: the shared checkpoint is, below."""
    settings, manifest = prepared(tmp_path, bert, engine="openvino", precision="int8", **OPEN_GATE)
    assert manifest.precision == "int8"
    assert {"kendall_tau", "top10_overlap", "mean_score_error"} <= set(manifest.fidelity)
    assert load_engine(settings).info.precision == "int8"
    weights = (artifact_dir(settings) / "model.bin").stat().st_size
    other, _ = prepared(tmp_path / "fp32", bert, precision="fp32")
    assert weights < 0.6 * (artifact_dir(other) / "model.bin").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "openvino"])
def test_int8_of_a_trained_model_passes_the_gate(shared_data, tmp_path, engine):
    if engine == "native" and library() is None:
        pytest.skip("the native engine is not built here")
    if engine == "openvino" and not has_fast_int8():
        pytest.skip("prepare does not choose it without VNNI, and here it takes two minutes")
    _, manifest = prepared(tmp_path, shared_data / "cranfield-ce", engine=engine, precision="int8")
    assert manifest.engine == engine
    assert manifest.fidelity["kendall_tau"] >= 0.95
    if engine == "native":
        assert manifest.fidelity["company_error"] == 0, "a score is equal to the bit, alone and among others"


def plant_garbage(_engine, _pairs, directory, *_):
    """Turn every weight round."""
    import openvino as ov

    model = ov.Core().read_model(directory / "model.xml")
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.f32 and node.data.size > 1000:
            node.output(0).replace(ov.opset13.constant(-node.data).output(0))
    ov.save_model(model, directory / "turned.xml", compress_to_fp16=False)
    del model
    for suffix in (".xml", ".bin"):
        (directory / "turned").with_suffix(suffix).replace((directory / "model").with_suffix(suffix))


def test_a_broken_int8_model_is_refused_with_the_figures(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("webapp.engine.prepare.export.quantize", plant_garbage)
    with pytest.raises(SetupError, match=r"int8 differs too much .*mean_score_error \S+ \(at most 0.05\)"):
        prepared(tmp_path, bert, engine="openvino", precision="int8")
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


def test_auto_goes_on_to_the_next_precision_and_says_why(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("webapp.engine.prepare.export.quantize", plant_garbage)
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_fast_int8", lambda: True)
    monkeypatch.setattr("webapp.engine.runtimes.openvino.has_bf16", lambda: False)
    lines = []
    manifest = pipeline.prepare(Settings(model=str(bert), state_dir=tmp_path, engine="openvino"), lines.append)
    assert manifest.precision == "fp32"
    assert any(line.startswith("openvino int8 differs too much") for line in lines)
    assert "openvino int8 differs too much" in manifest.chosen_because
    assert "openvino fp32 passes the gate" in manifest.chosen_because


def test_the_first_engine_that_passes_serves_and_no_other_is_built(bert, tmp_path, monkeypatch):
    order = [Candidate("torch", "bf16"), Candidate("openvino", "fp32"), Candidate("torch", "fp32")]
    monkeypatch.setattr("webapp.engine.prepare.pipeline.candidates", lambda *_: order)
    lines = []
    manifest = pipeline.prepare(Settings(model=str(bert), state_dir=tmp_path, gate_max_score_error=0), lines.append)
    assert (manifest.engine, manifest.precision) == ("openvino", "fp32")
    stages = [line for line in lines if line.startswith("[") and "done in" not in line]
    assert [stage[:5] for stage in stages] == ["[1/6]", "[2/6]", "[3/6]", "[4/6]", "[5/6]", "[4/6]", "[5/6]", "[6/6]"]
    assert not any("torch fp32" in line for line in lines)


def test_the_original_scores_each_pair_once_however_many_candidates_are_tried(bert, tmp_path, monkeypatch):
    order = [Candidate("torch", "bf16"), Candidate("openvino", "fp32")]
    monkeypatch.setattr("webapp.engine.prepare.pipeline.candidates", lambda *_: order)
    scored, honest = [], SourceModel._compute

    def compute(self, pairs, *instruction):
        scored.extend(pairs)
        return honest(self, pairs, *instruction)

    monkeypatch.setattr(SourceModel, "_compute", compute)
    pipeline.prepare(Settings(model=str(bert), state_dir=tmp_path, gate_max_score_error=0), lambda _: None)
    assert len(scored) == len(set(scored)) > 100


@pytest.mark.slow
def test_equal_texts_of_a_bi_encoder_are_encoded_once(monkeypatch):
    source = load_source(_embedded("").directory)
    pairs = [(query, document) for query in ("a", "b") for document in ("c", "d", "c")]
    alone = np.concatenate([load_source(_embedded("").directory).reference([pair]) for pair in pairs])
    encoded, honest = [], source.model.encode_document

    def encode(texts, **options):
        encoded.extend(texts)
        return honest(texts, **options)

    monkeypatch.setattr(source.model, "encode_document", encode)
    assert np.allclose(source.reference(pairs), alone, atol=1e-6)
    assert encoded == ["c", "d"]


def test_calibration_data_of_ones_own_is_used_and_checked(tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text("".join(f'{{"query": "q{n}", "documents": ["d{n} a", "d{n} b"]}}\n' for n in range(6)))
    examples = read_examples(file)
    calibrated = {query for query, _ in examples.calibration}
    judged = {query for query, _ in examples.judged}
    assert calibrated | judged == {f"q{n}" for n in range(6)}
    assert not calibrated & judged
    file.write_text('{"query": 3}')
    with pytest.raises(SetupError, match="--calibration-data"):
        read_examples(file)


def test_a_card_that_is_lost_while_a_model_is_prepared_is_told_in_one_line(bert, tmp_path, monkeypatch):
    def lose(*_, **_options):
        raise EngineLostError("the card can't be used any more (RuntimeError: CUDA error)")

    monkeypatch.setattr(pipeline, "_build", lose)
    with pytest.raises(SetupError, match=r"can't be used any more \(.*\); set RERANK_ENGINE to native"):
        prepared(tmp_path, bert)


def test_a_half_written_artifact_is_never_served(bert, tmp_path, monkeypatch):
    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_publish", crash)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path, bert)
    settings = Settings(model=str(bert), state_dir=tmp_path)
    assert read_manifest(artifact_dir(settings)) is None
    with pytest.raises(SetupError, match="not prepared"):
        load_engine(settings)


def test_what_a_killed_prepare_left_is_cleared_away(bert, tmp_path):
    leftover = tmp_path / "models" / ".bert-0123456789ab.4711"
    leftover.mkdir(parents=True)
    prepared(tmp_path, bert)
    assert not leftover.exists()


def test_a_damaged_artifact_is_refused_with_the_remedy(bert_settings, tmp_path):
    directory = artifact_dir(bert_settings)
    copy = Settings(model=bert_settings.model, state_dir=tmp_path)
    shutil.copytree(directory, artifact_dir(copy))
    with (artifact_dir(copy) / "model.bin").open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(SetupError, match="does not match its manifest; remove"):
        load_engine(copy)
    (artifact_dir(copy) / MANIFEST).write_text("{")
    with pytest.raises(SetupError, match="damaged"):
        load_engine(copy)


def test_a_model_retrained_in_place_is_prepared_again(bert, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bert, model)
    settings = Settings(model=str(model), state_dir=tmp_path / "state")
    before = artifact_dir(settings)
    (model / "model.safetensors").write_bytes(b"retrained")
    assert artifact_dir(settings) != before


def test_a_model_with_several_labels_is_an_error_that_says_so(tmp_path):
    model = small_models.build_bert(tmp_path / "model", labels=3)
    with pytest.raises(SetupError, match=r"has 3 labels .*; a reranker has one"):
        prepared(tmp_path / "state", model)


def test_a_model_of_another_kind_is_an_error_that_says_so(bert, tmp_path):
    change = {"architectures": ["BertForTokenClassification"]}
    model = tmp_path / "model"
    shutil.copytree(bert, model)
    (model / "config.json").write_text(json.dumps(json.loads((model / "config.json").read_text()) | change))
    with pytest.raises(SetupError, match="not a CrossEncoder"):
        prepared(tmp_path / "state", model)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90865000\n"
CONFIG = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}

DAMAGES = {
    "weights cut short": ("model.safetensors", lambda data: data[: len(data) // 2]),
    "weights that git-lfs has not fetched": ("model.safetensors", lambda _: POINTER),
    "weights that are rubbish": ("model.safetensors", lambda data: b"\xff" * len(data)),
    "weights that are empty": ("model.safetensors", lambda _: b""),
    "configuration cut short": ("config.json", lambda data: data[: len(data) // 2]),
    "configuration that is no object": ("config.json", lambda _: b"[]"),
    "architectures that are no list": ("config.json", lambda _: b'{"architectures": 3}'),
    "a type of model that nobody knows": ("config.json", lambda _: json.dumps(CONFIG | {"model_type": "x"}).encode()),
    "another size than the weights have": (
        "config.json",
        lambda data: data.replace(b'"hidden_size": 32', b'"hidden_size": 64'),
    ),
    "no heads": ("config.json", lambda data: data.replace(b'"num_attention_heads": 2', b'"num_attention_heads": 0')),
    "tokenizer cut short": ("tokenizer.json", lambda data: data[: len(data) // 2]),
    "tokenizer that is empty": ("tokenizer.json", lambda _: b"{}"),
    "tokenizer's configuration cut short": ("tokenizer_config.json", lambda data: data[: len(data) // 2]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_model_with_damaged_files_is_one_line_that_names_its_directory(bert, tmp_path, damage):
    model = shutil.copytree(bert, tmp_path / "model")
    name, harm = DAMAGES[damage]
    (model / name).write_bytes(harm((model / name).read_bytes()))
    with pytest.raises(SetupError) as refused:
        prepared(tmp_path, model, engine="openvino", precision="fp32")
    message = str(refused.value)
    assert str(model) in message
    assert "\n" not in message
    assert len(message) < 600


def test_a_library_s_error_leaves_the_model_to_the_next_candidate_or_is_one_line(bert, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("a page of advice\nand another")

    monkeypatch.setattr("webapp.engine.prepare.export.export_openvino", fail)
    with pytest.raises(
        SetupError,
        match=r"^openvino fp32 can't compute this model \(RuntimeError: a page of advice\); set RERANK_ENGINE to ",
    ):
        prepared(tmp_path, bert, engine="openvino", precision="fp32")


def test_an_artifact_that_a_library_can_t_read_any_more_is_one_line_at_the_start(bert, tmp_path):
    settings, manifest = prepared(tmp_path, bert, engine="openvino", precision="fp32")
    directory = artifact_dir(settings)
    (directory / "tokenizer.json").write_text("{}")
    files = {**manifest.files, "tokenizer.json": sha256_of(directory / "tokenizer.json")}
    (directory / MANIFEST).write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, files=files)))
    with pytest.raises(SetupError, match=r"tokenizer.json is damaged \(.*\); remove .* and prepare again"):
        load_engine(settings)


def test_the_manifest_says_what_was_prepared(bert_settings):
    manifest = json.loads((artifact_dir(bert_settings) / MANIFEST).read_bytes())
    assert manifest["model"] == "bert"
    assert manifest["score_scale"] == "sigmoid"
    assert manifest["template"]["max_length_tokens"] == 512
    assert set(manifest["files"]) == {"golden.json", "model.bin", "model.xml", "tokenizer.json"}
    assert len(manifest["revision"]) == 64
    msgspec.json.encode(manifest)


def test_another_gate_is_another_artifact(bert, tmp_path):
    """It may choose another precision."""
    settings = Settings(model=str(bert), state_dir=tmp_path)
    stricter = Settings(model=str(bert), state_dir=tmp_path, gate_min_tau=0.99)
    assert artifact_dir(settings) != artifact_dir(stricter)
