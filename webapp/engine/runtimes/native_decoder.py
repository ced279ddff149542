"""The native runtime for decoders: Qwen's, Llama's and Gemma's kind (native/decoder.h).

As with encoders weights are mapped and shared, and nothing is padded. Each engine thread keeps keys and values of what
rows begin with, so that the documents of a request share those of its query.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import EngineFailedError
from webapp.engine.artifact import Tables, damaged
from webapp.engine.runtimes.native import (
    ABI_VERSION,
    PANEL,
    STATUS_MESSAGES,
    Expected,
    Tensors,
    check_sizes,
    kernels_of,
    load_model,
    open_library,
    read_tensors,
    tensor_table,
)

PREFIX_BYTES = 64 * 1024 * 1024
"""Keys and values that a thread keeps at most. 80 tokens of a query with its words take 18 MB in Qwen3-0.6B's shape."""

MATRICES = ("qkv", "mix", "gate", "up", "down")

_SIZES = ("positions", "heads", "kv_heads", "dim", "group")
_FLAGS = ("normalises_heads", "gelu", "causal", "mean")
_BUFFERS = ("ids", "lengths", "prefixes", "out")


class _Shape(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                *("border", "vocabulary", "positions", "hidden", "wide", "layers", "heads", "kv_heads", "dim", "group"),
                *_FLAGS,
            )
        ),
        ("epsilon", ctypes.c_float),
    )


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length")),
        *((name, ctypes.c_void_p) for name in _BUFFERS),
        *((name, ctypes.c_int64) for name in ("id_count", "length_count", "prefix_count", "out_count")),
    )


class NativeDecoderRuntime:
    """A packed decoder, mapped into memory.

    Args:
        path: of the file.
        instructions: the instruction set to compute with; empty: the fastest.

    Raises:
        SetupError: the kernels are not built here, or the file is not a model that they can compute.
    """

    def __init__(self, path: Path, instructions: str = "") -> None:
        self.library = open_library()
        self._tensors, metadata = read_tensors(path)
        try:
            shape = _shape(self._tensors, metadata)
            table = tensor_table(self._tensors, _expected(shape))
        except (LookupError, ValueError, TypeError) as error:
            raise damaged(path, f"no decoder of ours: {error}") from error
        self.model = load_model(self.library.decoder_load, shape, table, path, instructions)
        self.kernels = kernels_of(self.library, instructions)
        self.tables = Tables(shape.vocabulary, None, None)

    def start(self, threads: int) -> None:
        """Do nothing: nothing is compiled, and nothing is lost in a fork."""

    def open(self, prefix_bytes: int = PREFIX_BYTES) -> NativeDecoderForward:
        """Return a forward pass with scratch and prefixes of its own."""
        return NativeDecoderForward(self, prefix_bytes)

    def __del__(self) -> None:
        if getattr(self, "model", None):
            self.library.decoder_unload(self.model)


class NativeDecoderForward:
    """A forward pass with scratch for one thread; see `webapp.engine.base.Forward`."""

    def __init__(self, runtime: NativeDecoderRuntime, prefix_bytes: int) -> None:
        self._runtime = runtime  # holds the model, and the mapping that its pointers lead into
        self._scratch = ctypes.c_void_p()
        if status := runtime.library.decoder_open(
            runtime.model, ctypes.c_int64(prefix_bytes), ctypes.byref(self._scratch)
        ):
            raise EngineFailedError(STATUS_MESSAGES[status])

    @property
    def kept_bytes(self) -> int:
        """Bytes that keys and values of prefixes take now."""
        return int(self._runtime.library.decoder_kept(self._scratch))

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        """Compute, without the interpreter's lock; rows are padded at their end only, and begin with type 0.

        Raises:
            EngineFailedError: the model can't compute this batch; nothing of it was computed.
        """
        rows, length = input_ids.shape
        lengths = mask.sum(axis=1, dtype=np.int32)
        # The last token is a row's own in any case: its output is what is scored.
        prefixes = np.minimum(np.argmax(types != 0, axis=1), lengths - 1).astype(np.int32)
        out = np.empty((rows, 1), np.float32)
        given = [np.ascontiguousarray(input_ids, np.int64), lengths, prefixes, out]
        batch = _Batch(rows, length, *(array.ctypes.data for array in given), *(array.size for array in given))
        if status := self._runtime.library.decoder_forward(self._scratch, ctypes.byref(batch)):
            raise EngineFailedError(STATUS_MESSAGES[status])
        return out

    def __del__(self) -> None:
        if getattr(self, "_scratch", None):
            self._runtime.library.decoder_close(self._scratch)


def _shape(tensors: Tensors, metadata: Mapping[str, str]) -> _Shape:
    """Return a model's shape: what its tensors tell, and what its metadata say."""
    vocabulary, hidden = tensors["words"].shape
    sizes = {
        "vocabulary": vocabulary,
        "hidden": hidden,
        "wide": tensors["0.up.weights"].shape[0] * PANEL,
        "layers": sum(name.endswith(".qkv.weights") for name in tensors),
        **{name: int(metadata[name]) for name in _SIZES},
    }
    check_sizes(sizes)
    flags = {name: {"0": 0, "1": 1}[metadata[name]] for name in _FLAGS}
    return _Shape(ABI_VERSION, **sizes, **flags, epsilon=float(metadata["epsilon"]))


def _expected(shape: _Shape) -> Expected:
    hidden, wide, dim = shape.hidden, shape.wide, shape.dim
    queries, qkv = shape.heads * dim, (shape.heads + 2 * shape.kv_heads) * dim
    found: Expected = {
        "words": ((shape.vocabulary, hidden), np.uint16),
        "frequencies": ((dim // 2,), np.float32),
        "gain": ((hidden,), np.float32),
        "head": ((hidden,), np.float32),
    }
    sizes = [(qkv, hidden), (hidden, queries), (wide, hidden), (wide, hidden), (hidden, wide)]
    for layer in range(shape.layers):
        for part, (outputs, inputs) in zip(MATRICES, sizes, strict=True):
            groups = -(-inputs // shape.group)
            found[f"{layer}.{part}.weights"] = (outputs // PANEL, inputs // 4, PANEL, 4), np.int8
            for name in ("scales", "sums"):
                found[f"{layer}.{part}.{name}"] = (outputs // PANEL, groups, PANEL), np.float32
            found[f"{layer}.{part}.bias"] = (outputs,), np.float32
        for name in ("mix.gain", "wide.gain"):
            found[f"{layer}.{name}"] = (hidden,), np.float32
        if shape.normalises_heads:
            for name in ("query.gain", "key.gain"):
                found[f"{layer}.{name}"] = (dim,), np.float32
    return found
