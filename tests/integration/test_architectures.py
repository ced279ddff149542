"""What the native engine takes for a model of its own, and how it reads it; it leaves others to other engines."""

from functools import partial

import numpy as np
import pytest
import small_decoders
import torch
from native_kit import inputs, needs_kernels, torch_logits
from small_encoders import build_encoder, build_modernbert, build_of_modules, build_sentence_transformer

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.models.original import load_source
from webapp.engine.prepare.architectures import architecture_of
from webapp.engine.prepare.pack import pack, pack_architecture
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.runtimes.native import NativeRuntime

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A ModernBERT that is wide enough for int8 to say little less than float32, and what torch makes of a batch."""
    shape = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 128}
    source = load_source(build_modernbert(tmp_path_factory.mktemp("wide") / "model", **shape))
    given = inputs([90, 60, 33, 17, 80, 40], 90)
    return source, given, torch_logits(source, *given)


@needs_kernels
@pytest.mark.parametrize(
    "wrong",
    [
        lambda found: found.shape.update(window=found.shape["window"] - 1),
        lambda found: found.shape.update(window=found.shape["window"] + 1),
        lambda found: found.shape.update(global_every=2),
        lambda found: found.shape.update(pool=2),
        lambda found: found.tables.update(frequencies=found.tables["frequencies"][::-1].copy()),
    ],
)
def test_a_modernbert_is_read_as_it_is(wide, tmp_path, wrong):
    """Read a little otherwise its logits differ from torch's by more than int8 makes."""
    source, given, theirs = wide

    def error(change=lambda _: None):
        found = architecture_of(source)
        change(found)
        pack_architecture(found, tmp_path / "m", lambda: torch_logits(source, *inputs([90] * 4, 90, seed=9)))
        return np.abs(NativeRuntime(tmp_path / "m").open()(*given) - theirs).mean()

    assert error() < 0.75 * error(wrong)


@needs_kernels
def test_a_text_may_be_longer_than_a_modernbert_says_that_it_has_positions(tmp_path):
    """They are turned, not looked up; torch reads such a text, too."""
    source = load_source(build_modernbert(tmp_path / "model", max_position_embeddings=64))
    source.cut_at(300)
    assert pack(source, tmp_path / "packed")
    given = inputs([200, 60], 200)
    ours, theirs = NativeRuntime(tmp_path / "packed").open()(*given), torch_logits(source, *given)
    assert np.abs(ours - theirs).max() < 0.15 * max(1, np.abs(theirs).max())


def another_head(directory, **dense):
    """Ettin's modules, the first dense layer of which is another."""
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    transformer = Transformer(str(build_modernbert(directory / "encoder", "ModernBertModel")))
    first = Dense(32, 32, **{"activation_function": torch.nn.GELU(), **dense})
    last = Dense(32, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
    return build_of_modules(
        directory / "model", [transformer, Pooling(32, "cls"), first, LayerNorm(32), last], "CrossEncoder"
    )


@pytest.mark.parametrize(
    "dense",
    [
        {"use_residual": True},
        {"module_output_name": "other"},
        {"module_input_name": "token_embeddings"},
        {"activation_function": torch.nn.Softplus()},
    ],
)
def test_a_head_of_other_modules_is_left_to_other_engines(tmp_path, dense):
    assert architecture_of(load_source(another_head(tmp_path / "as it is"))) is not None
    assert architecture_of(load_source(another_head(tmp_path / "other", **dense))) is None


def test_prompts_that_do_not_count_are_left_to_other_engines_where_there_are_any(tmp_path):
    without = build_sentence_transformer(tmp_path / "without", include_prompt=False)
    prompts = {"query": "question: ", "document": "text: "}
    with_some = build_sentence_transformer(tmp_path / "with", include_prompt=False, prompts=prompts)
    assert architecture_of(load_source(without)) is not None
    assert architecture_of(load_source(with_some)) is None


def test_an_encoder_whose_vectors_are_another_output_is_left_to_other_engines(tmp_path):
    model = build_sentence_transformer(tmp_path / "model")
    assert architecture_of(load_source(model)) is not None
    modality = {"text": {"method": "forward", "method_output_name": ["hidden_states", 1]}}
    small_decoders.change(model / "sentence_bert_config.json", modality_config=modality)
    change = {"output_hidden_states": True}
    small_decoders.change(model / "config.json", **change)
    assert architecture_of(load_source(model)) is None


@needs_kernels
@pytest.mark.parametrize(
    ("build", "said"),
    [
        (partial(build_encoder, architecture="ElectraForSequenceClassification", embedding_size=24), "does not know"),
        (partial(build_encoder, architecture="ElectraForSequenceClassification", embedding_size=48), "does not know"),
        (partial(build_modernbert, local_attention=2**22), "can't compute a model of this shape"),
    ],
)
def test_what_the_kernels_do_not_take_is_said_before_anything_is_judged(tmp_path, build, said):
    """RERANK_ENGINE=auto tries the next engine then."""
    settings = Settings(model=str(build(tmp_path / "model")), state_dir=tmp_path, engine="native", precision="int8")
    reported = []
    with pytest.raises(SetupError, match=said):
        prepare(settings, reported.append)
    assert not any("comparing native int8" in line for line in reported)


def test_an_architecture_with_other_arithmetic_is_left_to_openvino(bert, tmp_path):
    source = load_source(bert)
    for layer in source.model.model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = torch.nn.Softplus()
    assert not pack(source, tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
