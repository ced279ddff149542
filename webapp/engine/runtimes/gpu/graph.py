"""The model on a GPU: one graph for all models, as native/transformer.h is for the kernels, with border.h's shapes.

Between two layers go `x`, the sums of the layers, and what the next layer reads of it. Large products are in the
model's precision; norms of heads, rotations, the last layer's sums and the head are in float32.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere
from torch import Tensor

from webapp.engine.runtimes.gpu.attention import CAUSAL, EVERYTHING, Attention, Sequences, Window, plain_attention
from webapp.engine.runtimes.packed import ACTIVATIONS, POOLS

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
}

Norm = tuple[Tensor, Tensor | None] | None
"""Gain and shift; None: nothing is normalised."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """A `batch.PackedBatch` on the device. What fills it up to a size belongs to no sequence, or to an empty one."""

    ids: Tensor
    positions: Tensor
    types: Tensor
    starts: Tensor
    seen_starts: Tensor
    seen: Tensor | None
    rows: int
    longest: int
    longest_seen: int

    @property
    def sequences(self) -> Sequences:
        """Where sequences lie."""
        return Sequences(self.starts, self.seen_starts, self.longest, self.longest_seen)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer's weights."""

    qkv: tuple[Tensor, Tensor | None]
    heads: Tensor | None
    """Gain of the norm of each head of queries and keys, shape [heads, dim]; None: they are not normalised."""
    window: Window
    rotary: int
    """Which of the kinds of rotary positions it has; -1: none."""
    rest: tuple[Tensor | None, ...]
    """What `after_attention` takes after x and the heads' output."""


class Weights:
    """Tensors of a model's file, on the device."""

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        self._tensors, self._dtype = tensors, dtype

    def get(self, name: str, *, wide: bool = False) -> Tensor:
        """Return a tensor, in the model's precision or in float32.

        Raises:
            KeyError: there is none of this name.
        """
        return self._tensors[name].to(torch.float32 if wide else self._dtype)

    def find(self, name: str, *, wide: bool = False) -> Tensor | None:
        """Return a tensor as `get` does, or None."""
        return self.get(name, wide=wide) if name in self._tensors else None

    def linear(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias."""
        return self.get(f"{name}.weight"), self.find(f"{name}.bias")

    def norm(self, name: str, *, wide: bool = False) -> Norm:
        """Return gain and shift."""
        gain = self.find(f"{name}.gain", wide=wide)
        return None if gain is None else (gain, self.find(f"{name}.shift", wide=wide))


class Graph:
    """A forward pass over packed sequences; see the module."""

    def __init__(
        self, shape: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype, attention: Attention
    ) -> None:
        """Take a model.

        Args:
            shape: the sizes of native/border.h's Shape, and `epsilon`.
            tensors: as `prepare.pack_floats` names them, on the device.
            dtype: of large products.
            attention: how sequences attend to themselves.
        """
        self.shape, self.dtype, self._attend = shape, dtype, attention
        self.shares = bool(shape["causal"] and shape["rotaries"] and POOLS[shape["pool"]] == "last")
        """Whether rows may share what they begin with."""
        self.is_recordable = attention is not plain_attention
        """Whether a card can record it: plain attention asks the card for numbers in between."""
        weights = Weights(tensors, dtype)
        self._words = weights.get("words")
        self._positions, self._types = weights.find("positions"), weights.find("types")
        self._frequencies = weights.find("frequencies", wide=True)
        self._words_norm = weights.norm("words")
        self._widened = weights.linear("widened") if "widened.weight" in tensors else None
        self._last_norm = weights.norm("last", wide=True)
        self._first_norm = weights.norm("0.mix") if shape["norms_first"] else None
        self._head = {name: weights.get(f"head.{name}", wide=True) for name in _head_parts(shape)}
        self._layers = [self._layer(weights, number) for number in range(shape["layers"])]
        self._after_attention = self.after_attention = make_after_attention(shape)
        self._rotate = self.rotate = make_rotate(shape["epsilon"])
        self._marks = False

    def compile(self) -> None:
        """Compile what is done element by element. Until `stop_marking`, passes mark tensors whose length varies."""
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else it starts processes; read at inductor's import
        self.after_attention = torch.compile(self._after_attention, fullgraph=True)
        self.rotate = torch.compile(self._rotate, fullgraph=True)
        self._marks = True

    def compile_nothing(self) -> None:
        """Compute as it is: no compiler works here."""
        self.after_attention, self.rotate = self._after_attention, self._rotate
        self._marks = False

    def stop_marking(self) -> None:
        """Mark no tensors any more: the code for any number of tokens is compiled."""
        self._marks = False

    def __call__(self, b: Inputs, one_each: Tensor) -> Tensor:
        """Return logits, shape [rows, 1], or vectors, shape [rows, hidden]; float32.

        Args:
            b: the batch.
            one_each: 0, 1, 2, ..., int32, at least rows + 1 of them.
        """
        turns = self._turns(b.positions)
        x, read = self._embed(b)
        pool = POOLS[self.shape["pool"]]
        for number, layer in enumerate(self._layers):
            if number == len(self._layers) - 1 and pool != "mean":
                first = pool == "first"
                last = self._last_layer(b, layer, x, read, turns=turns, one_each=one_each, first=first)
                return self._score(last)
            mixed = self._attention(b, layer, read, turns)
            self._mark(x, mixed)
            x, read = self.after_attention(x, mixed, *layer.rest)
        x = normalised(x.float(), self._last_norm, self.shape)
        ends = b.starts[: b.rows + 1].long()
        return self._score(torch.segment_reduce(x, "mean", offsets=ends, axis=0, unsafe=True))

    def _layer(self, weights: Weights, number: int) -> Layer:
        shape = self.shape
        is_local = bool(shape["window"]) and number % shape["global_every"] != 0
        window = CAUSAL if shape["causal"] else Window(shape["window"], shape["window"]) if is_local else EVERYTHING
        mix, up, down = (weights.linear(f"{number}.{name}") for name in ("mix", "up", "down"))
        if shape["norms_first"]:
            following = None if number == shape["layers"] - 1 else weights.norm(f"{number + 1}.mix")
            norms = weights.norm(f"{number}.wide"), following
        else:
            norms = weights.norm(f"{number}.mix"), weights.norm(f"{number}.wide")
        inner, outer = (each or (None, None) for each in norms)
        return Layer(
            weights.linear(f"{number}.qkv"),
            weights.find(f"{number}.heads.gain", wide=True),
            window,
            -1 if not shape["rotaries"] else int(is_local and shape["rotaries"] > 1),
            (*mix, *inner, *up, *down, *outer),
        )

    def _mark(self, *tensors: Tensor) -> None:
        if self._marks:
            for tensor in tensors:
                torch._dynamo.mark_dynamic(tensor, 0)  # noqa: SLF001 - documented

    def _turns(self, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return cosines and sines for each kind of rotary positions, shape [tokens, 1, dim / 2]."""
        if self._frequencies is None:
            return []
        angles = [positions.float()[:, None, None] * each for each in self._frequencies]
        return [(each.cos(), each.sin()) for each in angles]

    def _embed(self, b: Inputs) -> tuple[Tensor, Tensor]:
        x = F.embedding(b.ids, self._words)
        if self._positions is not None:
            x = x + F.embedding(b.positions, self._positions)
        if self._types is not None:
            x = x + F.embedding(b.types, self._types)
        x = normalised(x, self._words_norm, self.shape)
        if self._widened is not None:
            x = F.linear(x, *self._widened)
        return x, normalised(x, self._first_norm, self.shape)

    def _attention(self, b: Inputs, layer: Layer, read: Tensor, turns: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return what attention gives each token, shape [tokens, heads x dim]."""
        heads, kv_heads, dim = (self.shape[name] for name in ("heads", "kv_heads", "dim"))
        all_heads = F.linear(read, *layer.qkv).view(len(read), heads + 2 * kv_heads, dim)
        both, v = all_heads.split([heads + kv_heads, kv_heads], dim=1)
        if layer.rotary >= 0 or layer.heads is not None:
            cos, sin = turns[layer.rotary] if layer.rotary >= 0 else (None, None)
            self._mark(both, *(each for each in (cos, sin) if each is not None))
            both = self.rotate(both, cos, sin, layer.heads)
        q, k = both.split([heads, kv_heads], dim=1)
        if b.seen is not None:
            k, v = k.index_select(0, b.seen), v.index_select(0, b.seen)
        return self._attend(q, k, v, b.sequences, layer.window).reshape(len(read), heads * dim)

    def _last_layer(
        self,
        b: Inputs,
        layer: Layer,
        x: Tensor,
        read: Tensor,
        *,
        turns: list[tuple[Tensor, Tensor]],
        one_each: Tensor,
        first: bool,
    ) -> Tensor:
        """Return the outputs that are scored, shape [rows, hidden], float32: the last layer computes no others."""
        heads, kv_heads, dim = (self.shape[name] for name in ("heads", "kv_heads", "dim"))
        rows, width = b.rows, heads * dim
        scored = b.starts[:rows].clamp(max=len(read) - 1) if first else (b.starts[1 : rows + 1] - 1).clamp(min=0)
        if layer.window.after > 0:
            # The only query of a sequence would stand at its end, and see what is around there.
            mixed = self._attention(b, layer, read, turns).index_select(0, scored)
        else:
            weight, bias = layer.qkv
            biases = (None, None) if bias is None else (bias[:width], bias[width:])
            q = F.linear(read.index_select(0, scored), weight[:width], biases[0]).view(rows, heads, dim)
            k, v = F.linear(read, weight[width:], biases[1]).view(len(read), 2, kv_heads, dim).unbind(1)
            if layer.rotary >= 0 or layer.heads is not None:
                none: tuple[None, None] = None, None
                pair = turns[layer.rotary] if layer.rotary >= 0 else none
                cos, sin = pair
                there = [None if each is None else each.index_select(0, scored) for each in pair]
                gains = (None, None) if layer.heads is None else layer.heads.split([heads, kv_heads])
                q, k = self._rotate(q, *there, gains[0]), self._rotate(k, cos, sin, gains[1])
            if b.seen is not None:
                k, v = k.index_select(0, b.seen), v.index_select(0, b.seen)
            at = Sequences(one_each[: rows + 1], b.seen_starts[: rows + 1], 1, b.longest_seen)
            # The only query of a sequence stands at its end, so it sees all, causal or not.
            mixed = self._attend(q, k, v, at, EVERYTHING).reshape(rows, width)
        x, _ = self._after_attention(x.index_select(0, scored).float(), mixed, *layer.rest)
        return normalised(x, self._last_norm, self.shape)

    def _score(self, pooled: Tensor) -> Tensor:
        head, shape = self._head, self.shape
        if not shape["scores"]:
            return pooled
        x = pooled
        if "dense" in head:
            x = FUNCTIONS[ACTIVATIONS[shape["head_activation"]]](F.linear(x, head["dense"], head["dense_bias"]))
        if "gain" in head:
            x = F.layer_norm(x, x.shape[-1:], head["gain"], head["shift"], shape["epsilon"])
        return (x @ head["out"] + head["out_bias"])[:, None]


def _head_parts(shape: Mapping[str, Any]) -> list[str]:
    dense = ["dense", "dense_bias"] if shape["head_dense"] else []
    norm = ["gain", "shift"] if shape["head_norm"] else []
    return [*dense, *norm, "out", "out_bias"] if shape["scores"] else []


def normalised(x: Tensor, norm: Norm, shape: Mapping[str, Any]) -> Tensor:
    """Return x normalised, or as it is."""
    if norm is None:
        return x
    gain, shift = (None if part is None else part.to(x.dtype) for part in norm)
    if shape["rms"]:
        return F.rms_norm(x, x.shape[-1:], gain, shape["epsilon"])
    return F.layer_norm(x, x.shape[-1:], gain, shift, shape["epsilon"])


def make_after_attention(shape: Mapping[str, Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return what follows attention in a layer: its output matrix, the feed-forward part, the norms.

    That is PURE, to be compiled. It takes x, what attention gives, and a layer's `rest`; it returns x and what the next
    layer reads.
    """
    activated, gated = FUNCTIONS[ACTIVATIONS[shape["activation"]]], bool(shape["gated"])

    def norm(x: Tensor, gain: Tensor | None, shift: Tensor | None) -> Tensor:
        return normalised(x, None if gain is None else (gain, shift), shape)

    def feed_forward(read: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Any) -> Tensor:
        wide = F.linear(read.to(up.dtype), up, up_bias)
        if gated:
            gate, wide = wide.chunk(2, dim=-1)
            return F.linear(activated(gate) * wide, down, down_bias)
        return F.linear(activated(wide), down, down_bias)

    def norms_after(x: Tensor, mixed: Tensor, *weights: Any) -> tuple[Tensor, Tensor]:
        mix, mix_bias, inner, inner_shift, up, up_bias, down, down_bias, outer, outer_shift = weights
        x = norm(x + F.linear(mixed, mix, mix_bias), inner, inner_shift)
        x = norm(x + feed_forward(x, up, up_bias, down, down_bias), outer, outer_shift)
        return x, x.to(up.dtype)

    def norms_first(x: Tensor, mixed: Tensor, *weights: Any) -> tuple[Tensor, Tensor]:
        mix, mix_bias, inner, inner_shift, up, up_bias, down, down_bias, outer, outer_shift = weights
        x = x + F.linear(mixed, mix, mix_bias)
        x = x + feed_forward(norm(x, inner, inner_shift), up, up_bias, down, down_bias)
        return x, norm(x, outer, outer_shift).to(up.dtype)

    return norms_first if shape["norms_first"] else norms_after


def make_rotate(epsilon: float) -> Callable[..., Tensor]:
    """Return the norm and the rotation of heads, in float32. PURE, to be compiled."""

    def rotate(heads: Tensor, cos: Tensor | None, sin: Tensor | None, gain: Tensor | None) -> Tensor:
        x = heads.float()
        if gain is not None:
            x = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + epsilon) * gain
        if cos is not None and sin is not None:
            first, second = x.chunk(2, dim=-1)
            x = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return x.to(heads.dtype)

    return rotate


def divisor_of(dim: int) -> float:
    """Return what attention divides products of queries and keys by."""
    return math.sqrt(dim)
