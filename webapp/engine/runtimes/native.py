"""The native runtime: our own int8 kernels (native/); here for encoders of BERT's family.

`native_decoder` has decoders.

The weights are mapped from a safetensors file, so workers share their pages, and an engine thread adds only scratch.
Nothing is padded, whatever length the rows are given at. native/border.h is the kernels' interface, and native/border.c
checks each model and batch: a mistake on this side is an error, not a read of foreign memory.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import EngineFailedError, SetupError
from webapp.engine.artifact import Tables, damaged

Tensors = dict[str, NDArray[Any]]

Expected = dict[str, tuple[tuple[int, ...], type]]
"""Names of a model's tensors, in the order of native/border.h, to their shapes and types."""

FILLER = ".filler"
"""Ends the names of tensors that only keep the next one aligned."""

PANEL = 16
"""Outputs that lie together in a packed matrix; see native/ops.h."""

_LENGTH_BYTES = 8
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "I8": np.dtype(np.int8),
    "BF16": np.dtype(np.uint16),
}
"""Types of a safetensors file that we use; numpy has no bfloat16, so its bits are whole numbers."""

_Count = Annotated[int, msgspec.Meta(ge=0)]

ABI_VERSION = 4
"""BORDER of the native/border.h that this file was written for."""

_ABI_DIFFERS = 2
_BAD_INSTRUCTIONS = 9

STATUS_MESSAGES = {
    1: "there is no memory for it",
    2: "the kernels were built from other sources; install again",
    3: "the kernels can't compute a model of this shape",
    4: "a tensor is not as large as the model's shape says",
    5: "the batch's buffers are not as large as its rows and length say",
    6: "a row has no tokens, or more than the model has positions",
    7: "a token id is not in the model's vocabulary",
    8: "a token type is not in the model's table",
    9: "these kernels have no such instruction set, or this processor lacks it",
}
"""Meanings of native/border.h's Status."""

_COUNTS = ("border", "vocabulary", "positions", "types", "hidden", "heads", "wide", "layers", "classifies", "pad")
_BUFFERS = ("ids", "types", "lengths", "out")


class _Entry(msgspec.Struct, frozen=True):
    """A tensor in the table of contents of a safetensors file."""

    dtype: Literal["F32", "I8", "BF16"]
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


class _Shape(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_int32) for name in _COUNTS), ("epsilon", ctypes.c_float))


class _Tensor(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("bytes", ctypes.c_int64))


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length")),
        *((name, ctypes.c_void_p) for name in _BUFFERS),
        *((name, ctypes.c_int64) for name in ("id_count", "type_count", "length_count", "out_count")),
    )


PORTABLE = "scalar"
"""The instruction set of kernels in plain C: they run on any processor, and are slower than other engines."""


def library() -> Path | None:
    """Return the compiled kernels; None: there was no compiler at installation.

    A clone may have those of other Pythons and machines, too. A wheel has one, named for the Python that built it.
    """
    home = Path(__file__).parent.parent / "native"
    of_this_python = home / f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    if of_this_python.is_file():
        return of_this_python
    return max(home.glob("_kernels.*so"), key=lambda path: path.stat().st_mtime, default=None)


def instruction_sets() -> list[str]:
    """Return the instruction sets that the kernels were compiled for and this processor has, the fastest first.

    None: there are no kernels, or they are of another version.
    """
    try:
        opened = open_library()
    except SetupError:
        return []
    return [name.decode() for name in iter(map(opened.instruction_set, itertools.count()).__next__, None)]


class NativeRuntime:
    """A packed model, mapped into memory.

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
            raise damaged(path, f"no model of ours: {error}") from error
        self.model = load_model(self.library.bert_load, shape, table, path, instructions)
        self.kernels = kernels_of(self.library, instructions)
        self.tables = Tables(shape.vocabulary, shape.positions, shape.types)
        self.width = 1 if shape.classifies else shape.hidden
        """Numbers a row of the output: one logit, or a vector."""

    def start(self, threads: int) -> None:
        """Do nothing: nothing is compiled, and nothing is lost in a fork."""

    def open(self) -> NativeForward:
        """Return a forward pass with scratch of its own."""
        return NativeForward(self)

    def __del__(self) -> None:
        if getattr(self, "model", None):
            self.library.bert_unload(self.model)


class NativeForward:
    """A forward pass with scratch for one thread; see `webapp.engine.base.Forward`."""

    def __init__(self, runtime: NativeRuntime) -> None:
        self._runtime = runtime  # holds the model, and the mapping that its pointers lead into
        self._scratch = ctypes.c_void_p()
        if status := runtime.library.bert_open(runtime.model, ctypes.byref(self._scratch)):
            raise EngineFailedError(STATUS_MESSAGES[status])

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        """Compute, without the interpreter's lock; rows are padded at their end only.

        Raises:
            EngineFailedError: the model can't compute this batch; nothing of it was computed.
        """
        rows, length = input_ids.shape
        out = np.empty((rows, self._runtime.width), np.float32)
        given = [
            np.ascontiguousarray(input_ids, np.int64),
            np.ascontiguousarray(types, np.int64),
            mask.sum(axis=1, dtype=np.int32),
            out,
        ]
        batch = _Batch(rows, length, *(array.ctypes.data for array in given), *(array.size for array in given))
        if status := self._runtime.library.bert_forward(self._scratch, ctypes.byref(batch)):
            raise EngineFailedError(STATUS_MESSAGES[status])
        return out

    def __del__(self) -> None:
        if getattr(self, "_scratch", None):
            self._runtime.library.bert_close(self._scratch)


def open_library() -> ctypes.CDLL:
    """Return the kernels.

    Raises:
        SetupError: there are none, they were built for another machine, or they are of another version.
    """
    built = library()
    if built is None:
        raise SetupError("the native engine's kernels are not built here; set RERANK_ENGINE=openvino")
    try:
        opened = ctypes.CDLL(str(built))
    except OSError as error:
        raise SetupError(f"the native engine's kernels can't be opened ({error}); install again") from error
    if not hasattr(opened, "instruction_set"):
        raise SetupError(STATUS_MESSAGES[_ABI_DIFFERS])
    opened.instruction_set.restype = ctypes.c_char_p
    for name in ("bert_close", "bert_unload", "decoder_close", "decoder_unload"):
        getattr(opened, name).argtypes = [ctypes.c_void_p]
    opened.decoder_kept.restype = ctypes.c_int64
    return opened


def kernels_of(opened: ctypes.CDLL, instructions: str) -> str:
    """Return instruction set and version of the kernels that compute where this set was asked for."""
    return f"{instructions or opened.instruction_set(0).decode()}/{ABI_VERSION}"


def load_model(load: Any, shape: ctypes.Structure, table: Any, path: Path, instructions: str) -> ctypes.c_void_p:
    """Return a model that `load`, a function of native/border.h, makes of tensors.

    Raises:
        SetupError: the kernels can't compute it.
    """
    model, named = ctypes.c_void_p(), instructions.encode() or None
    status = load(ctypes.byref(shape), ctypes.byref(table), ctypes.c_int64(len(table)), named, ctypes.byref(model))
    if status in (_ABI_DIFFERS, _BAD_INSTRUCTIONS):
        raise SetupError(STATUS_MESSAGES[status])
    if status:
        raise damaged(path, STATUS_MESSAGES[status])
    return model


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Refuse what ctypes would cut without a word.

    Raises:
        ValueError: one of these sizes is no positive 32-bit number.
    """
    if not all(0 < size < 2**31 for size in sizes.values()):
        raise ValueError(f"impossible sizes: {sizes}")


def _shape(tensors: Tensors, metadata: Mapping[str, str]) -> _Shape:
    """Return a model's shape, read off its tensors."""
    vocabulary, hidden = tensors["words"].shape
    pad = int(metadata["pad"])
    if not -1 <= pad < vocabulary:
        raise ValueError(f"impossible padding: {pad}")
    sizes = {
        "vocabulary": vocabulary,
        "positions": len(tensors["positions"]) - (pad >= 0),
        "types": len(tensors["types"]),
        "hidden": hidden,
        "heads": int(metadata["heads"]),
        "wide": tensors["0.up.weights"].shape[0] * PANEL,
        "layers": sum(name.endswith(".qkv.weights") for name in tensors),
    }
    check_sizes(sizes)
    classifies = "head.dense" in tensors
    return _Shape(ABI_VERSION, **sizes, classifies=classifies, pad=pad, epsilon=float(metadata["epsilon"]))


def tensor_table(tensors: Tensors, expected: Expected) -> Any:
    """Return all tensors, in the order of native/border.h.

    Raises:
        ValueError: they are not those that are expected.
    """
    for name, (size, dtype) in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise ValueError(f"{name} is missing")
        if tensor.shape != size or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not {np.dtype(dtype)} {list(size)}")
    unknown = [name for name in tensors if name not in expected and not name.endswith(FILLER)]
    if unknown:
        raise ValueError(f"nothing is known of its tensor {unknown[0]}")
    return (_Tensor * len(expected))(*(_Tensor(tensors[name].ctypes.data, tensors[name].nbytes) for name in expected))


def _expected(shape: _Shape) -> Expected:
    """Return shapes and types of a model's tensors, in the order of native/border.h."""
    hidden, wide = shape.hidden, shape.wide
    found: Expected = {
        "words": ((shape.vocabulary, hidden), np.float32),
        "positions": ((shape.positions + (shape.pad >= 0), hidden), np.float32),
        "types": ((shape.types, hidden), np.float32),
        "gain": ((hidden,), np.float32),
        "shift": ((hidden,), np.float32),
    }
    matrices = {"qkv": (3 * hidden, hidden), "mix": (hidden, hidden), "up": (wide, hidden), "down": (hidden, wide)}
    for layer in range(shape.layers):
        for part, (outputs, inputs) in matrices.items():
            found[f"{layer}.{part}.weights"] = (outputs // PANEL, inputs // 4, PANEL, 4), np.int8
            for name in ("scales", "sums", "bias"):
                found[f"{layer}.{part}.{name}"] = (outputs,), np.float32
        for name in ("mix.gain", "mix.shift", "down.gain", "down.shift"):
            found[f"{layer}.{name}"] = (hidden,), np.float32
    if shape.classifies:
        found |= {
            "head.dense": ((hidden, hidden), np.float32),
            "head.dense_bias": ((hidden,), np.float32),
            "head.out": ((1, hidden), np.float32),
            "head.out_bias": ((1,), np.float32),
        }
    return found


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
