"""Texts are cut at what a model has positions for, whatever its tokenizer claims."""

import json
import shutil

import numpy as np
import pytest
import small_models
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_encoders import build_encoder
from small_models import WORDS

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import PACKED_MODEL, artifact_dir, read_manifest
from webapp.engine.base import score_pair
from webapp.engine.loader import load_engine
from webapp.engine.models.original import load_source
from webapp.engine.models.source import positions_of
from webapp.engine.prepare import gate
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes.native import library

pytestmark = pytest.mark.filterwarnings("ignore")

OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}

LONG = " ".join(WORDS * 60)
PAIRS = [("bees", "bees find home"), ("bees", LONG), (LONG, "bees find home"), (LONG, LONG)]

UNLIMITED = {
    "cross-encoder": lambda directory: small_models.build_xlm_roberta(directory, max_length=None),
    "bi-encoder": lambda directory: small_models.build_bi_encoder(directory, max_length=514),
}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "openvino", "torch"])
@pytest.mark.parametrize("kind", UNLIMITED)
def test_a_model_with_514_positions_reads_512_tokens_on_every_engine(tmp_path, kind, engine):
    if engine == "native" and library() is None:
        pytest.skip("the native engine is not built here")
    model = UNLIMITED[kind](tmp_path / "model")
    precision = "int8" if engine == "native" else "fp32"
    settings = Settings(model=str(model), state_dir=tmp_path, engine=engine, precision=precision, **OPEN_GATE)
    prepare(settings, lambda _: None)
    served = load_engine(settings)
    assert served.info.max_length_tokens == 512
    served.start(1)
    ours, theirs = gate.engine_logits(served, PAIRS), load_source(model).reference(PAIRS)
    assert np.isfinite(ours).all()
    if precision == "fp32":
        assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.parametrize("claimed", [None, 4096, 514, -1])
@pytest.mark.parametrize("build", [small_models.build_xlm_roberta, small_models.build_bi_encoder])
def test_what_the_tokenizer_claims_does_not_lengthen_it(tmp_path, build, claimed):
    model = load_source(build(tmp_path / "model", max_length=claimed))
    assert model.max_length_tokens == model.model.max_seq_length == 512


def test_a_shorter_claim_counts(tmp_path):
    assert load_source(small_models.build_xlm_roberta(tmp_path / "model", max_length=128)).max_length_tokens == 128


def test_truncation_in_tokenizer_json_is_ignored_as_by_sentence_transformers(bert, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(bert, model)
    file = model / "tokenizer.json"
    truncation = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation": truncation}))
    settings = Settings(model=str(model), state_dir=tmp_path, engine="torch", precision="fp32")
    prepare(settings, lambda _: None)
    served = load_engine(settings)
    served.start(1)
    assert served.info.max_length_tokens == 512
    ours, theirs = gate.engine_logits(served, PAIRS), load_source(bert).reference(PAIRS)
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer_config.json"])
def test_a_worker_that_reads_the_original_refuses_files_that_others_replaced_since_its_master_began(tmp_path, changed):
    model = build_encoder(tmp_path / "model", "DebertaV2ForSequenceClassification")  # has no graph of ours
    settings = Settings(model=str(model), state_dir=tmp_path, engine="torch", precision="fp32")
    prepare(settings, lambda _: None)
    assert not (artifact_dir(settings) / PACKED_MODEL).exists()
    served = load_engine(settings)
    served.start(1)
    (tmp_path / "new").write_bytes((model / changed).read_bytes())  # retrained, and of the same shape
    (tmp_path / "new").replace(model / changed)
    with pytest.raises(SetupError, match="is not the model that was prepared; prepare it again"):
        served.start(1)


def test_a_torch_worker_serves_what_its_master_opened_though_another_artifact_has_its_place(bert, tmp_path):
    settings = Settings(model=str(bert), state_dir=tmp_path, engine="torch", precision="fp32")
    prepare(settings, lambda _: None)
    packed = artifact_dir(settings) / PACKED_MODEL

    def score(engine):
        engine.start(1)
        return score_pair(engine.open_session(), "bees", "bees find home")

    expected, served = score(load_engine(settings)), load_engine(settings)
    tensors = {name: tensor * 2 for name, tensor in load_file(packed).items()}
    with safe_open(packed, "pt") as file:
        save_file(tensors, tmp_path / "new", file.metadata())
    (tmp_path / "new").replace(packed)
    assert score(served) == expected


@pytest.mark.parametrize(
    ("family", "options", "positions"),
    [
        ("Bert", {}, 64),
        ("DistilBert", {}, 64),
        ("Electra", {}, 64),
        ("Albert", {"embedding_size": 16}, 64),
        ("Roberta", {"pad_token_id": 1}, 62),
        ("XLMRoberta", {"pad_token_id": 1}, 62),
        ("Camembert", {"pad_token_id": 1}, 62),
        ("Data2VecText", {"pad_token_id": 1}, 62),
        ("MPNet", {"pad_token_id": 1}, 62),
        ("Longformer", {"pad_token_id": 1, "attention_window": 4}, 62),
        ("Bart", {"d_model": 32}, 64),
        ("GPT2", {"n_embd": 32, "n_positions": 64}, 64),
        ("DebertaV2", {"position_biased_input": False, "relative_attention": True}, None),
        ("ModernBert", {}, None),
        ("Qwen3", {"head_dim": 16, "num_key_value_heads": 2}, None),
        ("XLNet", {"d_model": 32, "n_head": 2, "max_position_embeddings": None}, None),
        ("T5", {"d_model": 32}, None),
    ],
)
def test_the_position_table_of_a_family_is_found_or_known_to_be_missing(family, options, positions):
    small = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
    small |= {"intermediate_size": 32, "max_position_embeddings": 64}
    config = getattr(transformers, f"{family}Config")(
        **{name: value for name, value in {**small, **options}.items() if value is not None}
    )
    model = transformers.AutoModel.from_config(config).eval()
    assert positions_of(model) == positions


def test_a_larger_setting_is_cut_to_the_models_limit_and_a_line_says_so(xlm_roberta, tmp_path):
    lines = []
    settings = Settings(
        model=str(xlm_roberta), state_dir=tmp_path, engine="torch", precision="fp32", max_length_tokens=8192
    )
    prepare(settings, lines.append)
    assert read_manifest(artifact_dir(settings)).template.max_length_tokens == 512
    assert "RERANK_MAX_LENGTH_TOKENS is 8192, but this model reads 512: texts are cut there" in lines


def test_a_length_that_special_tokens_fill_is_refused(xlm_roberta, tmp_path):
    settings = Settings(
        model=str(xlm_roberta), state_dir=tmp_path, engine="torch", precision="fp32", max_length_tokens=5
    )
    with pytest.raises(SetupError, match="RERANK_MAX_LENGTH_TOKENS: 5 leaves no room"):
        prepare(settings, lambda _: None)
