"""The native engine's file: a model's shape and tensors, as native/border.h has them, in a safetensors file.

The file is mapped, so processes share its pages. All that it states is checked before a pointer into it is given away.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from webapp.engine.artifact import damaged

Tensors = dict[str, NDArray[Any]]
Expected = Iterator[tuple[str, tuple[tuple[int, ...], type]]]
"""Names, shapes and types of tensors."""

ABI_VERSION = 5
"""BORDER of the native/border.h that this file was written for."""

PANEL = 16
"""Outputs that lie together in a packed matrix; see native/ops.h."""

FILLER = ".filler"
"""Ends the names of tensors that only keep the next one aligned."""

DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "I8": np.dtype(np.int8)}
"""Types of a safetensors file that we use."""

ACTIVATIONS = ("identity", "gelu", "gelu_tanh", "silu", "relu", "tanh")
"""Names of native/border.h's Activation, in its order."""

POOLS = ("first", "last", "mean")
"""Names of its Pool."""

MATRICES = ("qkv", "mix", "gate", "up", "down")

SIZES = (
    *(
        "vocabulary",
        "positions",
        "types",
        "pad",
        "rotaries",
        "embedded",
        "hidden",
        "wide",
        "layers",
        "heads",
        "kv_heads",
        "dim",
    ),
    *("group", "causal", "window", "global_every", "norms_first", "rms", "normalises_words", "normalises_heads"),
    *("gated", "activation", "pool", "scores", "head_dense", "head_activation", "head_norm"),
)
"""What native/border.h's Shape says of a model in whole numbers, in its order, which says what each means."""

_LENGTH_BYTES = 8
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Shape(ctypes.Structure):
    """A model's shape, as the kernels take it."""

    _fields_ = (*((name, ctypes.c_int32) for name in ("border", *SIZES)), ("epsilon", ctypes.c_float))

    @property
    def qkv_width(self) -> int:
        """Outputs of the matrix that makes queries, keys and values."""
        return int((self.heads + 2 * self.kv_heads) * self.dim)


class _Entry(msgspec.Struct, frozen=True):
    """A tensor in the table of contents of a safetensors file."""

    dtype: Literal["F32", "I8"]
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


class _Tensor(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("bytes", ctypes.c_int64))


class PackedModel:
    """A model's file, mapped.

    Args:
        path: of the file.

    Raises:
        SetupError: it can't be read, or holds no model of ours.
    """

    def __init__(self, path: Path) -> None:
        self.tensors, metadata = read_tensors(path)
        try:
            self.shape = _shape(metadata, len(self.tensors))
            self.table = _table(self.tensors, dict(expected(self.shape)))
        except (LookupError, ValueError, TypeError) as error:
            raise damaged(path, f"no model of ours: {error}") from error


def _shape(metadata: Mapping[str, str], tensors: int) -> Shape:
    """Return a model's shape; whether the kernels can compute it they say."""
    sizes = {name: int(metadata[name]) for name in SIZES}
    if not all(-(2**31) <= size < 2**31 for size in sizes.values()):  # ctypes would cut them without a word
        raise ValueError(f"impossible sizes: {sizes}")
    if sizes["layers"] > tensors or sizes["group"] < 1:
        raise ValueError(f"impossible sizes: {sizes}")
    return Shape(ABI_VERSION, **sizes, epsilon=float(metadata["epsilon"]))


def _table(tensors: Tensors, wanted: Mapping[str, tuple[tuple[int, ...], type]]) -> Any:
    """Return all tensors, in the order of native/border.h.

    Raises:
        ValueError: they are not those that are wanted.
    """
    for name, (size, dtype) in wanted.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ValueError(f"{name} is missing")
        if tensor.shape != size or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {np.dtype(dtype)} {list(size)}")
    unknown = [name for name in tensors if name not in wanted and not name.endswith(FILLER)]
    if unknown:
        raise ValueError(f"nothing is known of its tensor {unknown[0]}")
    return (_Tensor * len(wanted))(*(_Tensor(tensors[name].ctypes.data, tensors[name].nbytes) for name in wanted))


def expected(shape: Shape) -> Expected:
    """Yield names, shapes and types of a model's tensors, in the order of native/border.h."""
    hidden = (shape.hidden,)
    embedded = (shape.embedded,)
    yield "words", ((shape.vocabulary, *embedded), np.int8)
    yield "words.scales", ((shape.vocabulary,), np.float32)
    yield "words.channels", (embedded, np.float32)
    if shape.rotaries:
        yield "frequencies", ((shape.rotaries, shape.dim // 2), np.float32)
    else:
        yield "positions", ((shape.positions + (shape.pad >= 0), *embedded), np.float32)
    if shape.types:
        yield "types", ((shape.types, *embedded), np.float32)
    if shape.normalises_words:
        yield from _norm("words", shape, shape.embedded)
    if shape.embedded < shape.hidden:
        yield from _matrix("widened", shape.hidden, shape.embedded, shape.group)
    for number in range(shape.layers):
        yield from _layer(shape, number)
    if shape.norms_first:
        yield from _norm("last", shape, shape.hidden)
    if not shape.scores:
        return
    if shape.head_dense:
        yield "head.dense", ((*hidden, *hidden), np.float32)
        yield "head.dense_bias", (hidden, np.float32)
    if shape.head_norm:
        yield "head.gain", (hidden, np.float32)
        yield "head.shift", (hidden, np.float32)
    yield "head.out", (hidden, np.float32)
    yield "head.out_bias", ((1,), np.float32)


def _norm(name: str, shape: Shape, width: int) -> Expected:
    yield f"{name}.gain", ((width,), np.float32)
    if not shape.rms:
        yield f"{name}.shift", ((width,), np.float32)


def _matrix(name: str, outputs: int, inputs: int, group: int) -> Expected:
    groups = groups_of(inputs, group)
    yield f"{name}.weights", ((outputs // PANEL, inputs // 4, PANEL, 4), np.int8)
    yield f"{name}.scales", ((outputs // PANEL, groups, PANEL), np.float32)
    yield f"{name}.sums", ((outputs // PANEL, groups, PANEL), np.float32)
    yield f"{name}.bias", ((outputs,), np.float32)


def _layer(shape: Shape, number: int) -> Expected:
    hidden, wide = shape.hidden, shape.wide
    queries = shape.heads * shape.dim
    sizes = [(shape.qkv_width, hidden), (hidden, queries), (wide, hidden), (wide, hidden), (hidden, wide)]
    for name, (outputs, inputs) in zip(MATRICES, sizes, strict=True):
        if name != "gate" or shape.gated:
            yield from _matrix(f"{number}.{name}", outputs, inputs, shape.group)
    if number > 0 or not shape.norms_first or not shape.normalises_words:
        yield from _norm(f"{number}.mix", shape, hidden)
    yield from _norm(f"{number}.wide", shape, hidden)
    if shape.normalises_heads:
        yield f"{number}.query.gain", ((shape.dim,), np.float32)
        yield f"{number}.key.gain", ((shape.dim,), np.float32)


def groups_of(inputs: int, group: int) -> int:
    """Return how many groups inputs make; the last one may have fewer."""
    return -(-inputs // group)


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Map a safetensors file and check all that it states; return its tensors and metadata.

    Raises:
        SetupError: it can't be read, its table of contents does not fit its size, or tensors overlap or leave holes.
    """
    try:
        mapped = np.memmap(path, np.uint8, mode="r")
        begin = _LENGTH_BYTES + int.from_bytes(bytes(mapped[:_LENGTH_BYTES]), "little")
        if begin > len(mapped):
            raise ValueError(f"its table of contents would end past its {len(mapped):,} bytes")  # noqa: TRY301
        contents = msgspec.json.decode(bytes(mapped[_LENGTH_BYTES:begin]), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(contents.pop("__metadata__", b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in contents.items()}
        return _tensors(mapped[begin:], entries), metadata
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise damaged(path, error) from error


def _tensors(data: NDArray[np.uint8], entries: Mapping[str, _Entry]) -> Tensors:
    """Return views of the data, one after the other as the format has them: no overlaps, no holes, no rest."""
    tensors = {}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        dtype = DTYPES[entry.dtype]
        if start != end or not start <= stop <= len(data):
            raise ValueError(f"{name} would take bytes {start:,} to {stop:,}, of {len(data):,}, and {end:,} is next")
        if math.prod(entry.shape) * dtype.itemsize != stop - start:
            raise ValueError(f"{name} has the shape {entry.shape} and {stop - start:,} bytes")
        tensors[name] = data[start:stop].view(dtype).reshape(entry.shape)
        end = stop
    if end != len(data):
        raise ValueError(f"{len(data) - end:,} bytes follow its last tensor")
    return tensors
