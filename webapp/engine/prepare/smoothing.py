"""Smoothing: exact changes of a model's weights, by which int8 holds its outlier channels.

Some channels of a transformer's activations are a hundred times as large as the others, and would leave those few
of the 256 steps of an int8. Their size is moved into the weights that read them, half of it on a logarithmic scale:
what makes a channel is divided by a factor (a norm's gain, a row of the matrix before), what reads it is multiplied by
the same.
Xiao et al., SmoothQuant, 2023, https://arxiv.org/abs/2211.10438.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from webapp.engine.prepare.architecture import Architecture, Floats, Layer

Peaks = list[dict[str, Floats]]
"""For each layer and each matrix that is read by int8 (qkv, mix, up, down): the largest size of each input."""

LEAST = 1e-5
"""A channel that is always zero, or that nothing reads, is taken to be of this size."""


def measure_peaks(architecture: Architecture, run: Callable[[], object]) -> Peaks:
    """Return the largest inputs of a model's matrices.

    Args:
        architecture: names the modules to watch.
        run: computes some texts with them, unpadded.
    """
    peaks: Peaks = [{} for _ in architecture.inputs]
    hooks = [
        module.register_forward_pre_hook(_keep_peak(found, name))
        for found, watched in zip(peaks, architecture.inputs, strict=True)
        for name, module in watched.items()
    ]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return peaks


def _keep_peak(found: dict[str, Floats], name: str) -> Callable[[Any, Any], None]:
    def hook(_module: Any, given: Any) -> None:
        peak = given[0].detach().abs().flatten(0, -2).amax(0).float().cpu().numpy()
        found[name] = np.maximum(found[name], peak) if name in found else peak

    return hook


def smooth(layer: Layer, peaks: Mapping[str, Floats], shape: Mapping[str, float]) -> None:
    """Move sizes of a layer's channels into its weights, wherever what makes a channel is a weight, too.

    A layer that normalises what it has added to makes its input for others as well, so only its attention's output can
    be smoothed, which are sums of values.
    """
    matrices, dim = layer.matrices, int(shape["dim"])
    mix, values = matrices["mix"], matrices["values"]
    shared_by = int(shape["heads"] // shape["kv_heads"])
    by = factors_of_heads(peaks["mix"], mix.weight, shared_by, dim)
    mix.weight *= np.broadcast_to(by, (len(by), shared_by, dim)).reshape(-1)
    _divide_outputs(values, by.reshape(-1))
    if shape["gated"]:
        by = factors(peaks["down"], matrices["down"].weight)
        matrices["down"].weight *= by
        _divide_outputs(matrices["up"], by)
    if not shape["norms_first"]:
        return
    of_wide = ("gate", "up") if shape["gated"] else ("up",)
    readings = {"mix": ("qkv", ("queries", "keys", "values")), "wide": ("up", of_wide)}
    for name, norm in layer.norms.items():
        peak, readers = readings[name]
        by = factors(peaks[peak], np.concatenate([matrices[reader].weight for reader in readers]))
        for reader in readers:
            matrices[reader].weight *= by
        norm.gain /= by
        if norm.shift is not None:
            norm.shift /= by


def _divide_outputs(matrix: Any, by: Floats) -> None:
    """Divide weights and bias of each output."""
    matrix.weight /= by[:, None]
    matrix.bias /= by


def factors(peak: Floats, weight: Floats) -> Floats:
    """Return what to multiply each column of a matrix by, and to divide its input by; their geometric mean is 1.

    Args:
        peak: the largest size of each input, shape [inputs].
        weight: the matrix, or the largest size of each column, shape [outputs, inputs].
    """
    found = np.sqrt(np.maximum(peak, LEAST) / np.maximum(np.abs(weight).max(axis=0), LEAST))
    return np.asarray(found / np.exp(np.log(found).mean()), np.float32)


def factors_of_heads(peak: Floats, weight: Floats, shared_by: int, dim: int) -> Floats:
    """Return factors of values, shape [kv_heads, 1, dim]: heads that share them have the same.

    Args:
        peak: the largest size of each input of the matrix that follows attention, shape [heads * dim].
        weight: that matrix, shape [hidden, heads * dim].
        shared_by: heads that share keys and values.
        dim: of a head.
    """

    def of_values(sizes: Floats) -> Floats:
        return np.asarray(sizes.reshape(-1, shared_by, dim).max(axis=1).reshape(-1))

    found = factors(of_values(peak), of_values(np.abs(weight).max(axis=0))[None])
    return found.reshape(-1, 1, dim)
