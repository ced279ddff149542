"""Decoders whose files say more than a recipe can: what can't be computed as their makers do is refused by name."""

import numpy as np
import pytest
import small_decoders
import small_models
import torch
from small_decoders import QWEN3_PAIRS, change

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.base import score_pair
from webapp.engine.loader import load_engine
from webapp.engine.models.layout import read_layout
from webapp.engine.models.original import load_source
from webapp.engine.prepare import pipeline
from webapp.engine.recipes import named_recipe
from webapp.engine.runtimes.native import library
from webapp.engine.runtimes.torch import in_precision

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_only_the_configuration_of_a_known_class_may_name_code(tmp_path, file):
    directory = small_decoders.build_nemotron(tmp_path / "nemotron")
    read_layout(directory)
    if file == "config.json":
        change(directory / file, model_type="llama")
    else:
        change(directory / file, model_type="llama_bidirec", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    with pytest.raises(SetupError, match=r"code of a model is never run"):
        read_layout(directory)


@pytest.mark.parametrize("pooling", ["last", "cls"])
def test_nemotron_with_another_pooling_is_refused(tmp_path, pooling):
    directory = small_decoders.build_nemotron(tmp_path / "nemotron")
    change(directory / "config.json", pooling=pooling)
    with pytest.raises(SetupError, match=f"pools tokens by {pooling}"):
        read_layout(directory)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
@pytest.mark.parametrize(
    "place", [lambda kind: {"rope_parameters": {"rope_type": kind}}, lambda kind: {"rope_scaling": {"type": kind}}]
)
def test_positions_that_depend_on_the_longest_text_of_a_batch_are_refused(tmp_path, kind, place):
    directory = small_decoders.build_decoder(tmp_path / "model", name="Qwen/Qwen3-Reranker-0.6B")
    change(directory / "config.json", **place(kind))
    with pytest.raises(SetupError, match=f"rotary positions of the kind {kind}"):
        read_layout(directory)


@pytest.mark.parametrize(
    ("role", "changed"),
    [
        ("query", "{} | trim"),
        ("query", "{} | e"),
        ("query", "{} | truncate(200)"),
        ("document", "({}).split('\n\n')[0]"),
        ("document", "{} | replace('<br>', ' ')"),
        ("document", "{} | default('nothing', true)"),
        ("document", "{} | trim"),
        ("document", "({})[:6000]"),
        ("document", "{} | truncate(8000, true, '')"),
        ("document", "{} | replace('\r\n', '\n')"),
        ("document", "{} | replace('```', '')"),
        ("document", "({}).split('</think>')[-1]"),
        ("document", "'' if ({}) == 'nothing' else ({})"),
        ("query", "'' if 'a secret' in ({}) else ({})"),
        ("query", "'long' if ({}) | length > 6000 else ({})"),
        ("query", "{} | urlize"),
    ],
)
def test_a_chat_template_that_changes_a_text_is_refused(tmp_path, role, changed):
    taken = f'messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first'
    assert taken in QWEN3_PAIRS
    template = QWEN3_PAIRS.replace(taken, changed.replace("{}", f"({taken})"))
    directory = small_decoders.build_with_modules(tmp_path / "model", "Qwen3ForCausalLM", template)
    with pytest.raises(SetupError, match=r"changes the text of .*; name another RERANK_MODEL$") as raised:
        load_source(directory)
    assert str(directory) in str(raised.value)


@pytest.mark.parametrize("now", ["strftime_now('%d %B %Y')", "strftime_now('%Y') if strftime_now is defined else ''"])
def test_a_chat_template_that_prints_the_day_is_refused(tmp_path, now):
    template = QWEN3_PAIRS.replace("<|im_start|>system\n", "<|im_start|>system\nIt is {{ " + now + " }}. ", 1)
    assert template != QWEN3_PAIRS
    directory = small_decoders.build_with_modules(tmp_path / "model", "Qwen3ForCausalLM", template)
    with pytest.raises(SetupError, match="prints the day, so its scores change"):
        load_source(directory)


def test_a_chat_template_that_prints_the_day_for_tools_alone_is_served(tmp_path):
    start = "<|im_start|>system\n"
    template = QWEN3_PAIRS.replace(
        start, "{% set day = strftime_now('%d') %}{% if tools %}{{ day }}{% endif %}" + start, 1
    )
    directory = small_decoders.build_with_modules(tmp_path / "model", "Qwen3ForCausalLM", template)
    assert load_source(directory).recipe.instruction == ""


@pytest.mark.parametrize("modules", [False, True])
def test_a_decoder_whose_tokenizer_splits_the_names_of_its_own_template_is_refused(tmp_path, modules):
    if modules:
        directory = small_decoders.build_with_modules(tmp_path / "model", "Qwen3ForCausalLM", QWEN3_PAIRS)
    else:
        directory = small_decoders.build_decoder(tmp_path / "model", name="Qwen/Qwen3-Reranker-0.6B")
    load_source(directory)
    change(directory / "tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(SetupError, match=r"tokenizer_config.json says split_special_tokens.*; set it to false$"):
        load_source(directory)


def test_layers_that_all_look_only_near_do_so_though_their_configuration_lists_none(tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'title = "ours"\nlicence = ""\nnames = []\nmarks = []\narchitectures = ["MistralForSequenceClassification"]\n'
        'max_length_tokens = 512\nprefix = ["<|im_start|>"]\nquery = "query: {query}"\ndocument = "doc: {document}"\n'
    )
    directory = small_decoders.build_decoder(
        tmp_path / "mistral", "MistralForSequenceClassification", sliding_window=16
    )
    settings = Settings(model=str(directory), state_dir=tmp_path, engine="torch", precision="fp32", recipe=str(recipe))
    pipeline.prepare(settings, lambda _: None)
    engine = load_engine(settings)
    engine.start(1)
    pair = ("how do bees find home", "flowers far near " * 60)
    reference = load_source(directory, recipe=named_recipe(str(recipe))).reference([pair])
    assert score_pair(engine.open_session(), *pair) == pytest.approx(reference[0], abs=1e-4)


def test_words_after_a_document_that_leave_no_room_for_it_are_refused(tmp_path):
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'title = "ours"\nlicence = ""\nnames = []\nmarks = []\narchitectures = ["Qwen3ForSequenceClassification"]\n'
        f'max_length_tokens = 512\nquery = "query: {{query}}"\ndocument = "{{document}} {"that was it, " * 20}"\n'
    )
    directory = small_decoders.build_decoder(tmp_path / "model", "Qwen3ForSequenceClassification")
    options = {"state_dir": tmp_path, "engine": "torch", "precision": "fp32", "recipe": str(recipe)}
    with pytest.raises(SetupError, match=r"the recipe has \d+ tokens after a document"):
        pipeline.prepare(Settings(model=str(directory), max_length_tokens=200, **options), lambda _: None)


@pytest.mark.skipif(library() is None, reason="the native engine is not built here")
def test_the_name_of_the_padding_in_a_text_has_the_position_that_its_makers_give_it(tmp_path):
    directory = small_models.build_xlm_roberta(tmp_path / "model")
    settings = Settings(
        model=str(directory),
        state_dir=tmp_path,
        engine="native",
        gate_max_score_error=1,
        gate_mean_score_error=1,
        gate_min_tau=-1,
        gate_min_top10_overlap=0,
    )
    pipeline.prepare(settings, lambda _: None)
    original = load_source(directory)
    session = load_engine(settings).open_session()
    pairs = [("how do bees", " <pad>" * count + " bees find home") for count in (3, 4, 5, 6, 20, 30)]
    right = original.reference(pairs)
    served = np.array([score_pair(session, *pair) for pair in pairs])
    with torch.inference_mode():
        in_a_row = [
            float(original.transformer(input_ids=ids, position_ids=torch.arange(2, 2 + ids.shape[1])[None]).logits)
            for ids in (torch.tensor(original.tokens(*pair)) for pair in pairs)
        ]
    assert np.abs(served - right).mean() < 0.3 * np.abs(in_a_row - right).mean()


def test_frequencies_of_rotary_positions_stay_in_float32():
    module = torch.nn.Module()
    module.inner = torch.nn.Linear(4, 4)
    module.inner.register_buffer("inv_freq", torch.tensor([0.1234567]))
    module = in_precision(module, torch.bfloat16)
    assert module.inner.weight.dtype == torch.bfloat16
    assert np.float32(module.inner.inv_freq.item()) == np.float32(0.1234567)
