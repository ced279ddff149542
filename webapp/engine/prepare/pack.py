"""Pack an encoder of BERT's family for the native engine: int8 weights in the order in which its kernels read them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.runtimes.native import DTYPES, FILLER, PANEL, Tensors

STEP = 8
"""Inputs that the kernels read at once, as in native/ops.h."""

LARGEST_LANE_SUM = 128
"""A 16-bit lane holds four products of 0..255 and an int8 weight: 255 x 128 stays below 2^15, of either sign."""


def pack(source: SourceModel, path: Path, report_share: ReportShare = lambda _share: None) -> bool:
    """Write the packed model as a safetensors file.

    Args:
        source: what to pack.
        path: the file to write.
        report_share: takes the share that is done.

    Returns:
        False, and nothing written, when the native engine does not know the architecture.
    """
    found = _parts(source)
    if found is None:
        return False
    config, encoder, head = found
    hidden, heads = config.hidden_size, config.num_attention_heads
    # RoBERTa counts positions from one past its padding index, and leaves out what looks like padding.
    pad = -1 if config.model_type == "bert" else config.pad_token_id
    tensors = {
        "words": floats_of(encoder.embeddings.word_embeddings.weight),
        "positions": floats_of(encoder.embeddings.position_embeddings.weight)[max(pad, 0) :],
        "types": floats_of(encoder.embeddings.token_type_embeddings.weight),
        "gain": floats_of(encoder.embeddings.LayerNorm.weight),
        "shift": floats_of(encoder.embeddings.LayerNorm.bias),
    }
    for number, layer in enumerate(encoder.encoder.layer):
        attention = layer.attention.self
        scale = 1 / math.sqrt(hidden // heads)
        projections = [(attention.query, scale), (attention.key, 1), (attention.value, 1)]
        weights = np.concatenate([floats_of(each.weight) * factor for each, factor in projections])
        biases = np.concatenate([floats_of(each.bias) * factor for each, factor in projections])
        linears = {
            "qkv": (weights, biases),
            "mix": _weight_and_bias(layer.attention.output.dense),
            "up": _weight_and_bias(layer.intermediate.dense),
            "down": _weight_and_bias(layer.output.dense),
        }
        for name, (weight, bias) in linears.items():
            if weight.shape[0] % PANEL or weight.shape[1] % PANEL:
                return False
            for part, tensor in pack_linear(weight, bias).items():
                tensors[f"{number}.{name}.{part}"] = tensor
        for name, norm in (("mix", layer.attention.output.LayerNorm), ("down", layer.output.LayerNorm)):
            tensors[f"{number}.{name}.gain"], tensors[f"{number}.{name}.shift"] = _weight_and_bias(norm)
        report_share((number + 1) / len(encoder.encoder.layer))
    for name, linear in head.items():
        tensors[f"head.{name}"], tensors[f"head.{name}_bias"] = _weight_and_bias(linear)
    write_tensors(path, tensors, {"heads": str(heads), "pad": str(pad), "epsilon": repr(float(config.layer_norm_eps))})
    return True


def pack_linear(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> Tensors:
    """Return a matrix of shape [outputs, inputs] in int8, each output with a scale of its own."""
    values, scales = _quantized(weight)
    return {
        "weights": _in_panels(values),
        "scales": scales.astype(np.float32),
        "sums": values.sum(axis=1, dtype=np.int32).astype(np.float32),
        "bias": bias,
    }


def pack_grouped(weight: NDArray[np.float32], bias: NDArray[np.float32], group: int) -> Tensors:
    """Return the same with a scale for each output and each group of inputs."""
    outputs, inputs = weight.shape
    groups = -(-inputs // group)
    filled = np.zeros((outputs, groups * group), np.float32)
    filled[:, :inputs] = weight
    values, scales = _quantized(filled.reshape(outputs * groups, group))
    sums = values.sum(axis=1, dtype=np.int32)

    def by_panel(figures: NDArray[Any]) -> NDArray[np.float32]:
        return np.ascontiguousarray(figures.reshape(outputs // PANEL, PANEL, groups).transpose(0, 2, 1), np.float32)

    values = values.reshape(outputs, groups * group)[:, :inputs]
    return {"weights": _in_panels(values), "scales": by_panel(scales), "sums": by_panel(sums), "bias": bias}


def _quantized(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return each row in int8, and its scale.

    The scale is the finest with which no 16-bit lane of the kernel can overflow; see native/ops_avx2.c.
    """
    rows, inputs = weight.shape
    scales = np.maximum(np.abs(weight).max(axis=1), 1e-12) / 127
    values = np.empty(weight.shape, np.int8)
    left = np.arange(rows)
    while len(left):
        tried = np.rint(weight[left] / scales[left, None]).astype(np.int16)
        values[left] = tried
        # Of eight inputs, 0 1 4 5 share one lane and 2 3 6 7 the other.
        fours = tried.reshape(len(left), inputs // STEP, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(len(left), -1, 4)
        worst = np.maximum(np.maximum(fours, 0).sum(axis=2), -np.minimum(fours, 0).sum(axis=2)).max(axis=1)
        over = worst > LARGEST_LANE_SUM
        left, worst = left[over], worst[over]
        scales[left] *= np.maximum(worst / LARGEST_LANE_SUM, 1.002)
    return values, scales


def _in_panels(values: NDArray[np.int8]) -> NDArray[np.int8]:
    outputs, inputs = values.shape
    return np.ascontiguousarray(values.reshape(outputs // PANEL, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3))


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file (8 bytes of header length, JSON header, data), its tensors aligned to 64 bytes.

    The library's own writer aligns to 8, so that vectors would straddle cache lines.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        size = -(-tensor.nbytes // 64) * 64
        if size != tensor.nbytes:
            # The format allows no holes between tensors.
            offsets = [at + tensor.nbytes, at + size]
            header[f"{name}{FILLER}"] = {"dtype": "I8", "shape": [size - tensor.nbytes], "data_offsets": offsets}
        offsets = [at, at + tensor.nbytes]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        at += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % 64)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            file.write(tensor.data)  # tofile has an error without a number where the disk is full
            file.write(b"\0" * (-tensor.nbytes % 64))


def floats_of(tensor: Any) -> NDArray[np.float32]:
    """Return one of torch's tensors in float32."""
    return np.asarray(tensor.detach().float().cpu().numpy(), np.float32)


def _weight_and_bias(module: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return floats_of(module.weight), floats_of(module.bias)


def _parts(source: SourceModel) -> tuple[Any, Any, dict[str, Any]] | None:
    """Return configuration, encoder and classifier layers of a model that native/bert.h can compute; else None."""
    try:
        if source.kind == "cross-encoder":
            model = source.model.model
            encoder = model.base_model
            config = model.config
            if config.model_type == "bert":
                head = {"dense": encoder.pooler.dense, "out": model.classifier}
            else:
                head = {"dense": model.classifier.dense, "out": model.classifier.out_proj}
        else:
            transformer, pooling, *rest = source.model
            if pooling.pooling_mode != "mean" or any(type(each).__name__ != "Normalize" for each in rest):
                return None
            if source.model.truncate_dim is not None or not source.pools_prompts:
                return None
            encoder, config, head = transformer.auto_model, transformer.auto_model.config, {}
    except (AttributeError, TypeError, ValueError):
        return None
    known = (
        config.model_type in ("bert", "roberta", "xlm-roberta")
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
        and not getattr(config, "is_decoder", False)
        and config.hidden_size // config.num_attention_heads % PANEL == 0
    )
    return (config, encoder, head) if known else None
