"""A model in the words of native/border.h, and what reads its parts off modules of torch.

`architectures` reads whole models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from webapp.engine.runtimes.packed import ACTIVATIONS

Floats = NDArray[np.float32]

CLASSES_OF_ACTIVATIONS = {
    "Identity": "identity",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "SiLUActivation": "silu",
    "SiLU": "silu",
    "ReLU": "relu",
    "Tanh": "tanh",
}
"""Names of classes of torch and transformers to the kernels'. torch's GELU, which is not among them, has two forms."""


class UnknownArchitectureError(Exception):
    """The native engine can't compute a model."""


@dataclass
class Matrix:
    """y = weight x + bias; weight: [outputs, inputs]."""

    weight: Floats
    bias: Floats


@dataclass
class Norm:
    """A layer norm, or one by the root of the mean square, which has no shift."""

    gain: Floats
    shift: Floats | None


@dataclass
class Layer:
    """A layer's weights, copied."""

    matrices: dict[str, Matrix]
    """queries (which come scaled), keys, values, mix, gate where it is gated, up, down."""
    norms: dict[str, Norm]
    """mix, of attention, where it has one; wide, of the feed-forward part."""
    head_gains: dict[str, Floats] = field(default_factory=dict)
    """query (which comes scaled) and key, where heads are normalised."""


@dataclass
class Head:
    """What makes a logit of a pooled vector: dense, activation, norm, then a row."""

    out: Matrix
    dense: Matrix | None = None
    activation: str = "identity"
    norm: Norm | None = None


@dataclass
class Architecture:
    """A model, read off its modules."""

    shape: dict[str, int | float]
    """What native/border.h's Shape says, but for what follows from the rest."""
    words: torch.nn.Embedding
    """The table of words. Gemma's is scaled when it is read, so it is read as it is called."""
    tables: dict[str, Floats]
    """positions or frequencies, and types, where there are any."""
    norms: dict[str, Norm]
    """words, of embeddings, and last, where there are such."""
    layers: Sequence[Callable[[], Layer]]
    """Each copies its weights when it is called: a large model's are never all copied at once."""
    inputs: Sequence[dict[str, torch.nn.Module]]
    """The modules of each layer that read what qkv, mix, up (and gate) and down read, by these names."""
    head: Head | None
    widened: Matrix | None = None
    """What makes the width of the layers of narrower embeddings; None: they have it."""


def require(known: object) -> None:
    """Raise UnknownArchitectureError unless something holds."""
    if not known:
        raise UnknownArchitectureError


def shape_of(*, activation: str, **others: Any) -> dict[str, int | float]:
    """Return a shape with what most models don't have."""
    require(activation != "tanh")
    usual = {"types": 0, "pad": -1, "rotaries": 0, "causal": 0, "window": 0, "global_every": 1}
    usual |= {"norms_first": 0, "rms": 0, "normalises_heads": 0, "gated": 0}
    return {**usual, "activation": ACTIVATIONS.index(activation), **others}


def post_norm(hidden: int, wide: int, heads: int) -> dict[str, int]:
    """Return what BERT and its kin have in common."""
    return {
        "hidden": hidden,
        "wide": wide,
        "heads": heads,
        "kv_heads": heads,
        "dim": hidden // heads,
    }


def activation_of(module: Any) -> str:
    """Return the kernels' name of an activation.

    Raises:
        KeyError: they have none.
    """
    if isinstance(module, torch.nn.GELU):
        return {"none": "gelu", "tanh": "gelu_tanh"}[module.approximate]
    return CLASSES_OF_ACTIVATIONS[type(module).__name__]


def floats_of(tensor: torch.Tensor) -> Floats:
    """Return one of torch's tensors in float32; it may be the same memory."""
    return np.asarray(tensor.detach().float().cpu().numpy(), np.float32)


def matrix_of(linear: Any, factor: float = 1.0) -> Matrix:
    """Return a copy of a linear layer, times a factor; its bias is zero where it has none."""
    weight = floats_of(linear.weight) * np.float32(factor)
    bias = np.zeros(len(weight), np.float32) if linear.bias is None else floats_of(linear.bias) * np.float32(factor)
    return Matrix(weight, bias)


def norm_of(norm: Any) -> Norm:
    """Return a copy of a layer norm; its shift is zero where it has none."""
    gain = floats_of(norm.weight).copy()
    return Norm(gain, np.zeros_like(gain) if norm.bias is None else floats_of(norm.bias).copy())


def rms_norm_of(norm: Any) -> Norm:
    """Return a norm without a shift; Gemma's weights are what is added to 1."""
    weight = floats_of(norm.weight)
    return Norm(weight + np.float32(type(norm).__name__.startswith("Gemma")), None)
