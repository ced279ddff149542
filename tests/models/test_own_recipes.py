"""RERANK_RECIPE: a decoder that nothing else tells the words of is served by the recipe that its operator names."""

import pytest
import small_decoders
import small_models

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.base import score_pair
from webapp.engine.loader import load_engine
from webapp.engine.prepare import pipeline
from webapp.engine.prepare.build import load_original
from webapp.engine.prepare.resolve import Source

pytestmark = pytest.mark.filterwarnings("ignore")

OWN = """
title = "Ours"
licence = "Ours"
names = []
marks = []
architectures = ["Qwen3ForCausalLM", "LlamaForCausalLM"]
max_length_tokens = 256
special_tokens = true
prefix = ["judge\\n"]
query = "Question: {query}"
middle = ["\\n"]
document = "Passage: {document} (end)"
suffix = [" answer:"]
[score]
yes = "yes"
no = "no"
"""


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own words.toml"
    file.write_text(OWN)
    return file


def prepare(tmp_path, model, recipe):
    settings = Settings(model=str(model), state_dir=tmp_path, engine="torch", precision="fp32", recipe=str(recipe))
    return settings, pipeline.prepare(settings, lambda _: None)


@pytest.mark.parametrize("document_first", [False, True])
@pytest.mark.parametrize("architecture", ["Qwen3ForCausalLM", "LlamaForCausalLM"])
def test_a_chat_model_is_served_by_the_operators_own_recipe(tmp_path, own, architecture, document_first):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if document_first:
        own.write_text(OWN.replace("max_length", "document_first = true\nmax_length"))
    of_llama = architecture.startswith("Llama")
    model = small_decoders.build_decoder(
        tmp_path / "chat", architecture, tokenizer=small_decoders.llama_tokenizer() if of_llama else None
    )
    settings, manifest = prepare(tmp_path, model, own)
    assert manifest.recipe.name == "own words"

    engine = load_engine(settings)
    engine.start(1)
    ours = score_pair(engine.open_session(), "how do bees", "find home")
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = ["Question: how do bees", "Passage: find home (end)"]
    first, second = texts[::-1] if document_first else texts
    ids = [tokenizer.bos_token_id] if of_llama else []
    for part in ("judge\n", first, "\n", second, " answer:"):
        ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = AutoModelForCausalLM.from_pretrained(model)(torch.tensor([ids])).logits[0, -1]
    yes, no = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("yes", "no"))
    assert ours == pytest.approx(float(logits[yes] - logits[no]), abs=1e-4)


def test_one_of_our_recipes_serves_a_model_under_another_name(tmp_path):
    model = small_decoders.build_decoder(tmp_path / "my-finetuned-judge")
    _, manifest = prepare(tmp_path, model, "qwen3-reranker")
    assert manifest.recipe.name == "qwen3-reranker"


def test_an_operators_file_of_a_recipes_name_is_not_judged_by_the_vendors_formula(tmp_path, own):
    file = own.rename(tmp_path / "zerank.toml")
    _, manifest = prepare(tmp_path, small_decoders.build_decoder(tmp_path / "judge"), file)
    assert manifest.recipe.document == "Passage: {document} (end)"


@pytest.mark.parametrize("word", ["nosuchword", "yes and no"])
def test_a_word_that_is_no_token_is_refused(tmp_path, own, word):
    own.write_text(OWN.replace('yes = "yes"', f'yes = "{word}"'))
    with pytest.raises(SetupError, match=f'no token "{word}", which the recipe scores by'):
        prepare(tmp_path, small_decoders.build_decoder(tmp_path / "judge"), own)


@pytest.mark.parametrize("number", ["100000", "1000000000000000000000"])
def test_a_token_that_the_vocabulary_lacks_is_refused(tmp_path, own, number):
    own.write_text(OWN.replace('yes = "yes"', f"yes_id = {number}"))
    with pytest.raises(SetupError, match="RERANK_RECIPE"):
        prepare(tmp_path, small_decoders.build_decoder(tmp_path / "judge"), own)


def test_an_encoder_has_no_use_for_a_recipe(tmp_path):
    model = small_models.build_bert(tmp_path / "encoder")
    with pytest.raises(SetupError, match=r"qwen3-reranker is for .*, .* is BertForSequenceClassification"):
        prepare(tmp_path, model, "qwen3-reranker")


@pytest.mark.parametrize("architecture", ["BertForSequenceClassification", "T5ForConditionalGeneration"])
def test_an_own_recipe_for_a_model_that_is_no_decoder_is_refused_by_name(tmp_path, own, architecture):
    own.write_text(OWN.replace('"LlamaForCausalLM"', f'"{architecture}"'))
    model = small_models.build_bert(tmp_path / "encoder")
    small_decoders.change(model / "config.json", architectures=[architecture])
    with pytest.raises(SetupError, match=rf"own words is for decoders, and .* is {architecture}, which is none"):
        prepare(tmp_path, model, own)


def test_a_head_that_an_own_recipe_has_no_words_for_is_refused_with_the_cause_and_a_remedy(tmp_path, own):
    own.write_text(OWN.replace('"LlamaForCausalLM"', '"GraniteForCausalLM"'))
    model = small_decoders.build_decoder(tmp_path / "judge", "GraniteForCausalLM", logits_scaling=8.0)
    with pytest.raises(
        SetupError, match=r"of the same tokens; the likely cause: its head .*; mend the file that RERANK_R"
    ):
        prepare(tmp_path, model, own)


@pytest.mark.parametrize("kind", ["decoder", "chain"])
def test_a_model_that_says_how_it_reads_a_pair_has_no_use_for_a_recipe(tmp_path, kind):
    directory = tmp_path / kind
    if kind == "decoder":
        small_decoders.build_with_modules(directory, "Qwen3ForCausalLM", small_decoders.QWEN3_PAIRS)
    else:
        small_decoders.build_ettin(directory)
    with pytest.raises(SetupError, match=r"says in modules.json how it reads a pair; unset RERANK_RECIPE"):
        prepare(tmp_path, directory, "qwen3-reranker")


def test_the_model_that_stands_in_is_not_read_by_the_recipe_of_another(tmp_path):
    stand_in = Source(small_models.build_bert(tmp_path / "encoder"), "stand-in", "1", substitute_for="Qwen3-Reranker")
    original = load_original(Settings(recipe="qwen3-reranker"), stand_in, lambda _: None)
    assert original.recipe is None
