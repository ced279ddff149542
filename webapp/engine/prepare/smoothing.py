"""Smoothing: exact changes of a decoder's weights, by which int8 holds its outlier channels.

Some channels of a decoder's activations are a hundred times as large as the others, and would leave those few of the
256 steps of an int8. Their size is moved into the weights that read them, half of it on a logarithmic scale: what makes
a channel is divided by a factor (a norm's gain, a row of the matrix before), what reads it is multiplied by the same.
Xiao et al., SmoothQuant, 2023, https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from webapp.engine.models.decoder_source import DecoderScore

Peaks = list[dict[str, NDArray[np.float32]]]
"""For each layer and each matrix that is read by int8 (qkv, mix, gate, down): the largest size of each input."""

LEAST = 1e-5
"""A channel that is always zero, or that nothing reads, is taken to be of this size."""


def measure_peaks(module: DecoderScore, run: Callable[[], object]) -> Peaks:
    """Return the largest inputs of a decoder's matrices.

    Args:
        module: the decoder.
        run: computes some texts with it, unpadded.
    """
    peaks: Peaks = [{} for _ in module.layers.layers]
    hooks = []
    for found, layer in zip(peaks, module.layers.layers, strict=True):
        watched = {
            "qkv": layer.self_attn.q_proj,
            "mix": layer.self_attn.o_proj,
            "gate": layer.mlp.gate_proj,
            "down": layer.mlp.down_proj,
        }
        hooks += [each.register_forward_pre_hook(_keep_peak(found, name)) for name, each in watched.items()]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return peaks


def _keep_peak(found: dict[str, NDArray[np.float32]], name: str) -> Callable[[Any, Any], None]:
    def hook(_module: Any, given: Any) -> None:
        peak = given[0].detach().abs().flatten(0, -2).amax(0).float().cpu().numpy()
        found[name] = np.maximum(found[name], peak) if name in found else peak

    return hook


def factors(peak: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what to multiply each column of a matrix by, and to divide its input by; their geometric mean is 1.

    Args:
        peak: the largest size of each input, shape [inputs].
        weight: the matrix, or the largest size of each column, shape [outputs, inputs].
    """
    found = np.sqrt(np.maximum(peak, LEAST) / np.maximum(np.abs(weight).max(axis=0), LEAST))
    return np.asarray(found / np.exp(np.log(found).mean()), np.float32)


def factors_of_heads(
    peak: NDArray[np.float32], weight: NDArray[np.float32], shared_by: int, dim: int
) -> NDArray[np.float32]:
    """Return factors of values, shape [kv_heads, 1, dim]: heads that share them have the same.

    Args:
        peak: the largest size of each input of the matrix that follows attention, shape [heads * dim].
        weight: that matrix, shape [hidden, heads * dim].
        shared_by: heads that share keys and values.
        dim: of a head.
    """

    def of_values(sizes: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(sizes.reshape(-1, shared_by, dim).max(axis=1).reshape(-1))

    found = factors(of_values(peak), of_values(np.abs(weight).max(axis=0))[None])
    return found.reshape(-1, 1, dim)
