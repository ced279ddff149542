"""Whether a model fits into memory is known from its files' headers."""

import json

import pytest

from webapp.domain.errors import SetupError
from webapp.engine.models.layout import Layout
from webapp.engine.prepare import room


def write(path, **tensors):
    """A safetensors file of zeros; `tensors` are pairs of a dtype and a shape."""
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = sizes[dtype]
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))


def layout(directory, architecture="BertForSequenceClassification", **config):
    config = {"architectures": [architecture], **config}
    return Layout(directory, "cross-encoder", False, directory, config, "Identity")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_weights_count_as_float32_whatever_the_file_holds(tmp_path, dtype):
    write(tmp_path / "model.safetensors", words=(dtype, [10, 8]), places=("I64", [512]))
    assert room.weight_bytes(layout(tmp_path)) == 4 * 80


def test_shards_are_added_up_and_a_file_that_is_not_loaded_is_not(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"model-{number}.safetensors", words=("BF16", [10, 8]))
    write(tmp_path / "other.safetensors", words=("F32", [1000, 8]))
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert room.weight_bytes(layout(tmp_path)) == 2 * 4 * 80


@pytest.mark.parametrize(
    ("architecture", "tied", "tensors"),
    [
        ("Qwen3ForCausalLM", True, 1),
        ("Qwen3ForCausalLM", False, 2),
        ("BertForSequenceClassification", True, 1),  # left over from training
    ],
)
def test_a_head_over_the_vocabulary_counts_only_where_it_is_loaded(tmp_path, architecture, tied, tensors):
    write(tmp_path / "model.safetensors", **{"words": ("F32", [10, 8]), "lm_head.weight": ("F32", [10, 8])})
    assert room.weight_bytes(layout(tmp_path, architecture, tie_word_embeddings=tied)) == tensors * 4 * 80


def test_of_torch_s_own_files_the_size_is_known(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(700))
    assert room.weight_bytes(layout(tmp_path)) == 700


def test_a_model_that_just_fits_is_loaded_and_a_larger_one_is_refused_in_one_line(tmp_path, monkeypatch):
    write(tmp_path / "model.safetensors", words=("BF16", [1000, 1000]))
    monkeypatch.setattr(room, "free_bytes", lambda **_: 4_000_000)
    room.check_memory(layout(tmp_path))
    monkeypatch.setattr(room, "free_bytes", lambda **_: 3_999_999)
    with pytest.raises(SetupError, match=r"takes 0\.0 GB of memory in float32, .* or name a smaller model$") as refused:
        room.check_memory(layout(tmp_path))
    assert "\n" not in str(refused.value)
