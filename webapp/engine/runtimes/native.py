"""The native runtime: our own int8 kernels (native/), for encoders and decoders.

The weights are mapped from a file (`packed`), so workers share their pages, and an engine thread adds only scratch.
Nothing is padded, whatever length the rows are given at. native/border.h is the kernels' interface, and native/border.c
checks each model and batch: a mistake on this side is an error, not a read of foreign memory.
"""

from __future__ import annotations

import ctypes
import itertools
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.domain.errors import EngineFailedError, SetupError
from webapp.engine.artifact import Tables, damaged
from webapp.engine.runtimes.packed import ABI_VERSION, PackedModel

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

PREFIX_BYTES = 64 * 1024 * 1024
"""Keys and values of what rows begin with that a thread keeps at most, where a model is a decoder: the documents of a
request share those of its query. 80 tokens of a query with its words take 18 MB in Qwen3-0.6B's shape."""

_BUFFERS = ("ids", "types", "lengths", "prefixes", "out")


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "length")),
        *((name, ctypes.c_void_p) for name in _BUFFERS),
        *((name, ctypes.c_int64) for name in ("id_count", "type_count", "length_count", "prefix_count", "out_count")),
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
        opened = _open_library()
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

    padded = False

    def __init__(self, path: Path, instructions: str = "") -> None:
        self.library = _open_library()
        self._packed = PackedModel(path)
        shape = self._packed.shape
        self.model = self._load(path, instructions)
        self.kernels = f"{instructions or self.library.instruction_set(0).decode()}/{ABI_VERSION}"
        """Instruction set and version of the kernels that compute."""
        self.tables = Tables(shape.vocabulary, None if shape.rotaries else shape.positions, shape.types or None)
        self.shares_prefixes = bool(shape.causal)
        self.width = 1 if shape.scores else shape.hidden
        """Numbers a row of the output: one logit, or a vector."""

    def _load(self, path: Path, instructions: str) -> ctypes.c_void_p:
        model = ctypes.c_void_p()
        shape, table = self._packed.shape, self._packed.table
        named = instructions.encode() or None
        status = self.library.model_load(
            ctypes.byref(shape), ctypes.byref(table), ctypes.c_int64(len(table)), named, ctypes.byref(model)
        )
        if status in (_ABI_DIFFERS, _BAD_INSTRUCTIONS):
            raise SetupError(STATUS_MESSAGES[status])
        if status:
            raise damaged(path, STATUS_MESSAGES[status])
        return model

    def start(self, threads: int) -> None:
        """Do nothing: nothing is compiled, and nothing is lost in a fork."""

    def open(self, prefix_bytes: int = PREFIX_BYTES) -> NativeForward:
        """Return a forward pass with scratch and prefixes of its own."""
        return NativeForward(self, prefix_bytes)

    def __del__(self) -> None:
        if getattr(self, "model", None):
            self.library.model_unload(self.model)


class NativeForward:
    """A forward pass with scratch for one thread; see `webapp.engine.base.Forward`."""

    def __init__(self, runtime: NativeRuntime, prefix_bytes: int) -> None:
        self._runtime = runtime  # holds the model, and the mapping that its pointers lead into
        self._pass = ctypes.c_void_p()
        if status := runtime.library.pass_open(runtime.model, ctypes.c_int64(prefix_bytes), ctypes.byref(self._pass)):
            raise EngineFailedError(STATUS_MESSAGES[status])

    @property
    def kept_bytes(self) -> int:
        """Bytes that keys and values of prefixes take now."""
        return int(self._runtime.library.pass_kept(self._pass))

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        """Compute, without the interpreter's lock; rows are padded at their end only.

        Rows of a decoder that begin alike do so with tokens of type 0.

        Raises:
            EngineFailedError: the model can't compute this batch; nothing of it was computed.
        """
        rows, length = input_ids.shape
        lengths = mask.sum(axis=1, dtype=np.int32)
        prefixes = np.zeros(rows, np.int32)
        if self._runtime.shares_prefixes:
            # The last token is a row's own in any case: its output is what is scored.
            prefixes = np.minimum(np.argmax(types != 0, axis=1), lengths - 1).astype(np.int32)
        out = np.empty((rows, self._runtime.width), np.float32)
        given = [
            np.ascontiguousarray(input_ids, np.int64),
            np.ascontiguousarray(types, np.int64),
            lengths,
            prefixes,
            out,
        ]
        batch = _Batch(rows, length, *(array.ctypes.data for array in given), *(array.size for array in given))
        if status := self._runtime.library.pass_forward(self._pass, ctypes.byref(batch)):
            raise EngineFailedError(STATUS_MESSAGES[status])
        return out

    def __del__(self) -> None:
        if getattr(self, "_pass", None):
            self._runtime.library.pass_close(self._pass)


def _open_library() -> ctypes.CDLL:
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
    if not hasattr(opened, "pass_open"):
        raise SetupError(STATUS_MESSAGES[_ABI_DIFFERS])
    opened.instruction_set.restype = ctypes.c_char_p
    for name in ("pass_close", "model_unload"):
        getattr(opened, name).argtypes = [ctypes.c_void_p]
    opened.pass_kept.restype = ctypes.c_int64
    return opened
