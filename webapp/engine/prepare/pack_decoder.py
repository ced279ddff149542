"""Pack a decoder of Qwen's, Llama's or Gemma's kind for the native engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from webapp.engine.models.decoder_source import DecoderScore
from webapp.engine.prepare.pack import floats_of, pack_grouped, write_tensors
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.prepare.smoothing import factors, factors_of_heads, measure_peaks
from webapp.engine.runtimes.native import PANEL, Tensors
from webapp.engine.runtimes.native_decoder import MATRICES

GROUP = 128
"""Inputs that share a scale. An outlier channel spoils the precision of its group's others, and of no more."""

ACTIVATIONS = {"SiLU": "0", "SiLUActivation": "0", "GELUTanh": "1", "PytorchGELUTanh": "1"}
"""Classes of gates that native/decoder.h knows, to its `gelu`."""

ROTARY = ("default", "linear", "llama3")
"""Rotary positions whose frequencies are the same for texts of all lengths."""


def pack_decoder(
    module: DecoderScore,
    path: Path,
    run: Callable[[], object],
    report_share: ReportShare = lambda _share: None,
) -> bool:
    """Write the packed model as a safetensors file.

    Args:
        module: layers and head.
        path: the file to write.
        run: computes some texts with the module, to see how large its activations are.
        report_share: takes the share that is done.

    Returns:
        False, and nothing written, when the native engine does not know the architecture.
    """
    if not _is_known(module):
        return False
    peaks = measure_peaks(module, run)
    config, rotary = module.layers.config, module.layers.rotary_emb
    first = module.layers.layers[0]
    with torch.inference_mode():
        # Gemma's embeddings are scaled.
        words = module.layers.embed_tokens(torch.arange(module.layers.embed_tokens.num_embeddings))
    tensors: Tensors = {
        "words": to_bfloat16(floats_of(words)),
        "frequencies": floats_of(rotary.inv_freq),
        "gain": _gain(module.layers.norm),
        "head": floats_of(module.head),
    }
    for number, layer in enumerate(module.layers.layers):
        for name, tensor in _layer(layer, peaks[number]).items():
            tensors[f"{number}.{name}"] = tensor
        report_share((number + 1) / len(module.layers.layers))
    attention = first.self_attn
    metadata = {
        "positions": config.max_position_embeddings,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "dim": attention.head_dim,
        "group": GROUP,
        "normalises_heads": int(hasattr(attention, "q_norm")),
        "gelu": ACTIVATIONS[type(first.mlp.act_fn).__name__],
        "causal": int(module.causal),
        "mean": int(module.mean),
        "epsilon": repr(float(config.rms_norm_eps)),
    }
    write_tensors(path, tensors, {name: str(value) for name, value in metadata.items()})
    return True


def _layer(layer: Any, peaks: dict[str, NDArray[np.float32]]) -> Tensors:
    """Return a layer's tensors, smoothed and in int8."""
    attention, mlp, dim = layer.self_attn, layer.mlp, layer.self_attn.head_dim
    normalises = hasattr(attention, "q_norm")
    # Queries come scaled, by their matrix or by the norm that follows it.
    factor = 1.0 if normalises else attention.scaling
    matrices = {
        "queries": [_weight(attention.q_proj) * np.float32(factor), _bias(attention.q_proj) * np.float32(factor)],
        "keys": [_weight(attention.k_proj), _bias(attention.k_proj)],
        "values": [_weight(attention.v_proj), _bias(attention.v_proj)],
        "mix": [_weight(attention.o_proj), _bias(attention.o_proj)],
        "gate": [_weight(mlp.gate_proj), _bias(mlp.gate_proj)],
        "up": [_weight(mlp.up_proj), _bias(mlp.up_proj)],
        "down": [_weight(mlp.down_proj), _bias(mlp.down_proj)],
    }
    gains = {"mix.gain": _gain(layer.input_layernorm), "wide.gain": _gain(layer.post_attention_layernorm)}
    shared_by = attention.num_key_value_groups
    by = factors_of_heads(peaks["mix"], matrices["mix"][0], shared_by, dim)
    matrices["mix"][0] *= np.broadcast_to(by, (len(by), shared_by, dim)).reshape(-1)
    _divide_outputs(matrices["values"], by.reshape(-1))
    by = factors(peaks["down"], matrices["down"][0])
    matrices["down"][0] *= by
    _divide_outputs(matrices["up"], by)
    for gain, peak, readers in (
        ("mix.gain", "qkv", ("queries", "keys", "values")),
        ("wide.gain", "gate", ("gate", "up")),
    ):
        by = factors(peaks[peak], np.concatenate([matrices[name][0] for name in readers]))
        for name in readers:
            matrices[name][0] *= by
        gains[gain] = gains[gain] / by
    parts = [matrices.pop(name) for name in ("queries", "keys", "values")]
    matrices["qkv"] = [np.concatenate(each) for each in zip(*parts, strict=True)]
    tensors: Tensors = dict(gains)
    for name in MATRICES:
        weight, bias = matrices[name]
        tensors |= {f"{name}.{part}": tensor for part, tensor in pack_grouped(weight, bias, GROUP).items()}
    if normalises:
        tensors["query.gain"] = _gain(attention.q_norm) * np.float32(attention.scaling)
        tensors["key.gain"] = _gain(attention.k_norm)
    return tensors


def _divide_outputs(matrix: list[NDArray[np.float32]], by: NDArray[np.float32]) -> None:
    """Divide weights and bias of each output."""
    matrix[0] /= by[:, None]
    matrix[1] /= by


def _weight(linear: Any) -> NDArray[np.float32]:
    return floats_of(linear.weight).copy()


def _bias(linear: Any) -> NDArray[np.float32]:
    return np.zeros(linear.out_features, np.float32) if linear.bias is None else floats_of(linear.bias).copy()


def _gain(norm: Any) -> NDArray[np.float32]:
    """Return what a norm multiplies by; Gemma's weights are what is added to 1."""
    weight = floats_of(norm.weight)
    return weight + 1 if type(norm).__name__.startswith("Gemma") else weight


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bits of the nearest bfloat16 numbers; published weights mostly are such numbers."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _is_known(module: DecoderScore) -> bool:
    """Return whether native/decoder.h can compute a model."""
    try:
        config, layers = module.layers.config, module.layers.layers
        attention, rotary = layers[0].self_attn, module.layers.rotary_emb
        widths = [
            *(config.hidden_size, config.intermediate_size, attention.head_dim),
            attention.q_proj.out_features // config.num_attention_heads,
        ]
        return (
            config.model_type in ("qwen2", "qwen3", "llama", "gemma")
            and all(width % PANEL == 0 for width in widths)
            and type(layers[0].mlp.act_fn).__name__ in ACTIVATIONS
            and rotary.rope_type in ROTARY
            and rotary.attention_scaling == 1
            and module.window is None
        )
    except AttributeError:
        return False
