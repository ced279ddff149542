"""A model whose files can't be read is refused in one line that names the file, the reason and a remedy."""

import json
import shutil

import pytest
import small_decoders
import small_models

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.prepare.build import load_original
from webapp.engine.prepare.resolve import Source

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    directory = tmp_path_factory.mktemp("originals")
    small_models.build_bert(directory / "encoder")
    small_decoders.build_decoder(directory / "decoder", name="Qwen/Qwen3-Reranker-0.6B")
    small_decoders.build_nemotron(directory / "nemotron")
    small_decoders.build_ettin(directory / "chain")
    return directory


def put(path, place, value):
    """Change one value in a JSON file."""
    contents = inside = json.loads(path.read_text())
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    path.write_text(json.dumps(contents))


def test_a_library_that_is_not_here_is_named_and_no_second_download_is_advised(originals, tmp_path):
    directory = shutil.copytree(originals / "encoder", tmp_path / "encoder")
    small_decoders.change(directory / "config.json", _attn_implementation="flash_attention_2")
    with pytest.raises(SetupError, match=r"asks for a library that is not here .*FlashAttention2") as raised:
        load_original(Settings(), Source(directory, "org/model", "1"), lambda _: None)
    assert str(raised.value).endswith("change what its files ask for, or name another RERANK_MODEL")


@pytest.mark.parametrize(
    ("model", "file", "place", "value", "reason"),
    [
        ("encoder", "config.json", ["layer_norm_eps"], {"a": 1}, "'layer_norm_eps'"),
        ("encoder", "config.json", ["hidden_size"], "many", "'hidden_size'"),
        ("encoder", "config.json", ["hidden_size"], 48, "mismatch"),
        ("encoder", "config.json", ["num_attention_heads"], 0, "ZeroDivisionError"),
        ("encoder", "tokenizer.json", ["model", "type"], "Words", ""),
        ("decoder", "tokenizer.json", ["model", "merges", 3], "x", "MergeType"),
        ("decoder", "tokenizer_config.json", ["eos_token"], 10**30, "eos_token"),
        ("decoder", "config.json", ["num_key_value_heads"], 3, ""),
        ("nemotron", "tokenizer.json", ["added_tokens", 0, "special"], {}, ""),
        ("chain", "2_Dense/config.json", ["activation_function"], [1], ""),
        ("chain", "1_Pooling/config.json", ["pooling_mode"], "best", "pooling mode"),
        ("chain", "3_LayerNorm/config.json", ["dimension"], None, ""),
    ],
)
def test_the_line_names_file_reason_and_remedy(originals, tmp_path, model, file, place, value, reason):
    directory = shutil.copytree(originals / model, tmp_path / model)
    put(directory / file, place, value)
    with pytest.raises(SetupError) as raised:
        load_original(Settings(), Source(directory, "org/model", "1"), lambda _: None)
    message = str(raised.value)
    assert message.startswith((f"{directory / file} ", f"{directory} "))
    assert reason in message
    assert message.endswith("fetch the model again, or name another RERANK_MODEL")
    assert "\n" not in message
    assert len(message) < 600
    assert "trust_remote_code" not in message
