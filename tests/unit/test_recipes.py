"""A recipe is read whole or refused in one line; a family is told by names and templates, never by architecture."""

import json

import pytest

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import first_artifact_dir
from webapp.engine.models.layout import read_layout
from webapp.engine.recipes import DIRECTORY, known_recipes, named_recipe, told_recipes

OWN = """
title = "ours"
licence = "ours"
names = []
marks = []
architectures = ["Qwen3ForCausalLM"]
max_length_tokens = 512
query = "Q: {query}"
document = "D: {document}"
[score]
yes = "yes"
"""

NAMES = [recipe.name for recipe in known_recipes()]


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_found_by_its_name_and_by_its_path(name):
    assert named_recipe(name).name == name
    assert named_recipe(str(DIRECTORY / f"{name}.toml")) == named_recipe(name)


def test_a_name_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(SetupError, match=r"RERANK_RECIPE: 'qwen4' is neither .* one of: bge.*, zerank"):
        named_recipe("qwen4")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("yes =", "yes = = "), "is no recipe"),
        (("title", "titel"), "unknown field `titel`"),
        (('licence = "ours"\n', ""), "missing required field `licence`"),
        (('["Qwen3ForCausalLM"]', "[]"), "length >= 1"),
        (("512", "4"), "max_length_tokens"),
        (("512", '"many"'), "max_length_tokens"),
        (("D: {document}", "D:"), "`document` must hold {document} once"),
        (("D: {document}", "{document}{document}"), "`document` must hold {document} once"),
        (("Q: {query}", "Q:"), "`query` must hold {query} once"),
        (("query =", "instructed_query ="), "`instructed_query` must hold {query} and {instruction} once"),
        (('query = "Q: {query}"\n', ""), "`query` is missing"),
        (("max_length", 'instruction = "judge"\nmax_length'), "`instructed_query` beside an `instruction`"),
        (('yes = "yes"', ""), "`score` must hold `yes` or `yes_id`"),
        (('yes = "yes"', "yes_id = -1"), "yes_id"),
        (('yes = "yes"', 'yes = "yes"\ntemperature = 0'), "temperature"),
        (('yes = "yes"', 'yes = "yes"\ntemperature = nan'), "temperature"),
        (('yes = "yes"', 'yes = "yes"\npooling = "mean"'), '`pooling` must be "last"'),
        (('yes = "yes"', 'yes = "yes"\npooling = "cls"'), "pooling"),
    ],
)
def test_a_broken_recipe_is_refused_in_one_line_that_names_file_and_fault(own, change, words):
    own.write_text(OWN.replace(*change))
    assert own.read_text() != OWN
    with pytest.raises(SetupError) as raised:
        named_recipe(str(own))
    assert str(raised.value).startswith(f"RERANK_RECIPE: {own} is no recipe")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", [lambda file: file.unlink(), lambda file: (file.unlink(), file.mkdir())])
def test_a_recipe_that_can_not_be_read_is_refused(own, make):
    make(own)
    with pytest.raises(SetupError, match=r"own.toml can't be read \("):
        named_recipe(str(own))


def test_bytes_that_are_no_text_are_refused(own):
    own.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match="is no recipe"):
        named_recipe(str(own))


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("Qwen/Qwen3-Reranker-0.6B", "qwen3-reranker"),
        ("tomaarsen/Qwen3-Reranker-4B-seq-cls", "qwen3-reranker"),
        ("mixedbread-ai/mxbai-rerank-large-v2", "mxbai-rerank-v2"),
        ("zeroentropy/zerank-1-small", "zerank"),
        ("zeroentropy/zerank-2", "zerank"),
        ("ContextualAI/ctxl-rerank-v2-instruct-multilingual-1b", "ctxl-rerank-v2"),
        ("BAAI/bge-reranker-v2-gemma", "bge-reranker-v2-gemma"),
        ("nvidia/llama-nemotron-rerank-1b-v2", "llama-nemotron-rerank"),
        ("nvidia/llama-3.2-nv-rerankqa-1b-v2", "llama-nemotron-rerank"),
    ],
)
def test_the_hubs_names_tell_the_family(name, recipe):
    assert [told.name for told in told_recipes([name], "")] == [recipe]


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-Embedding-0.6B",
        "BAAI/bge-reranker-v2-m3",
        "org/zerank-10-chat",
        "not-a-zerank-2b",
        "",
    ],
)
def test_names_of_other_models_tell_none(name):
    assert told_recipes([name], "<|im_start|>{{ message.content }}") == []


def decoder_files(directory, **config):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"architectures": ["Qwen3ForCausalLM"], **config}))
    return directory


def test_a_general_chat_model_is_refused_with_the_recipes_that_could_fit(tmp_path):
    with pytest.raises(SetupError, match=r"name one by RERANK_RECIPE: ctxl-rerank-v2, qwen3-reranker, zerank$"):
        read_layout(decoder_files(tmp_path / "chat", _name_or_path="Qwen/Qwen3-0.6B"))


def test_a_decoder_that_two_families_claim_is_refused(tmp_path):
    with pytest.raises(SetupError, match="or which"):
        read_layout(decoder_files(tmp_path / "both", _name_or_path="zerank-2"), "Qwen/Qwen3-Reranker-0.6B")


def test_a_recipe_of_another_architecture_is_refused(tmp_path):
    with pytest.raises(SetupError, match=r"bge-reranker-v2-gemma is for GemmaForCausalLM, .* is Qwen3ForCausalLM"):
        read_layout(decoder_files(tmp_path / "qwen"), recipe=named_recipe("bge-reranker-v2-gemma"))


def test_another_recipe_is_another_artifact(tmp_path, own):
    def where(recipe):
        return first_artifact_dir(Settings(state_dir=tmp_path, recipe=recipe)).name

    first = where(str(own))
    assert len({where(""), where("zerank"), first}) == 3
    own.write_text(OWN.replace("Q:", "Question:"))
    assert where(str(own)) != first
