"""Weights that are not read are told by name, and the advice is one that can help."""

import pytest

from webapp.engine.models.files import no_weights


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "holds no weights"),
        (["onnx/model.onnx"], "holds weights as onnx/model.onnx"),
        (["tf_model.h5"], "holds weights as tf_model.h5"),
        (["model.Q4_K_M.gguf"], "holds weights as model.Q4_K_M.gguf"),
        (["model.fp16.safetensors", "onnx/model.onnx"], "give model.fp16.safetensors that name, or name another"),
        (["pytorch_model.fp16.bin"], "give pytorch_model.fp16.bin that name, or name another"),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"], "holds no weights"),
        (["2_Dense/model.safetensors"], "holds no weights"),
        (["checkpoint-500/model.safetensors", "training_args.bin"], "holds no weights"),
        (["training_args.bin", "optimizer.pt"], "holds no weights"),
        (["adapter_model.safetensors"], "holds no weights"),
    ],
)
def test_a_directory_without_weights_tells_what_it_has(tmp_path, files, said):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    message = str(no_weights(tmp_path))
    assert said in message
    assert message.endswith("; fetch the model again" if said == "holds no weights" else "name another RERANK_MODEL")
