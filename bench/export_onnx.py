"""A cross-encoder as ONNX, and quantized to int8 as its users do it (dynamic, reduced range without VNNI).

Run by scripts/bench --peers, in the peers' environment: python bench/export_onnx.py MODEL DIRECTORY
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification, AutoTokenizer

MAX_LENGTH_TOKENS = 512
"""Longest input, as models of this kind are usually served."""


class Logits(torch.nn.Module):
    """The model as a function of tensors, in the order of `names`: those that its tokenizer makes."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.names = AutoTokenizer.from_pretrained(directory).model_input_names
        self.model = AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation="eager").eval()

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def main() -> None:
    source, target = sys.argv[1], Path(sys.argv[2])
    aside = target.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((aside / "config.json").read_text())
    # infinity cuts at so many tokens, two more than XLM-RoBERTa has positions for.
    config["max_position_embeddings"] = min(config["max_position_embeddings"], MAX_LENGTH_TOKENS)
    (aside / "config.json").write_text(json.dumps(config))
    logits = Logits(source)
    with tempfile.TemporaryDirectory(dir=target.parent) as exported:  # a large model's weights lie in files beside it
        path = Path(exported) / "model.onnx"
        torch.onnx.export(
            logits,
            (torch.ones((2, 8), dtype=torch.int64),) * len(logits.names),
            str(path),
            input_names=logits.names,
            output_names=["logits"],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in logits.names} | {"logits": {0: "rows"}},
            opset_version=17,
            dynamo=False,
        )
        quantized = aside / "model_quantized.onnx"
        quantize_dynamic(
            path,
            quantized,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range="avx512_vnni" not in Path("/proc/cpuinfo").read_text(),
        )
    # infinity refuses a directory with one of them, and with several takes whichever is listed first.
    (aside / "model.onnx").hardlink_to(quantized)
    aside.rename(target)


main()
