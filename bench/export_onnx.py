"""A cross-encoder as ONNX, and quantized to int8 as its users do it (dynamic, reduced range without VNNI).

Run by scripts/bench --peers, in the peers' environment: python bench/export_onnx.py MODEL DIRECTORY
"""

import shutil
import sys
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModelForSequenceClassification

NAMES = ["input_ids", "attention_mask", "token_type_ids"]


class Logits(torch.nn.Module):
    """The model as a function of three tensors."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation="eager").eval()

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(NAMES, tensors, strict=True))).logits


def main() -> None:
    source, target = sys.argv[1], Path(sys.argv[2])
    aside = target.with_suffix(".new")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside)
    example = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(
        Logits(source),
        (example,) * 3,
        str(aside / "model.onnx"),
        input_names=NAMES,
        output_names=["logits"],
        dynamic_axes={name: {0: "rows", 1: "length"} for name in NAMES} | {"logits": {0: "rows"}},
        opset_version=17,
        dynamo=False,
    )
    vnni = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
    quantize_dynamic(
        aside / "model.onnx",
        aside / "model_quantized.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not vnni,
    )
    aside.rename(target)


main()
