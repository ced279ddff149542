"""The native engine: our own int8 kernels (native/*.c) for encoders of BERT's family, on processors with AVX2.

The weights are mapped from the artifact, so workers share their pages, and scratch is all that an engine thread adds.
Nothing is padded, whatever length the rows are given at.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from webapp.errors import SetupError

_FLOATS = ctypes.POINTER(ctypes.c_float)


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weights", ctypes.POINTER(ctypes.c_int8)),
        ("scales", _FLOATS),
        ("sums", _FLOATS),
        ("bias", _FLOATS),
        ("inputs", ctypes.c_int32),
        ("outputs", ctypes.c_int32),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "mix", "up", "down")),
        *((name, _FLOATS) for name in ("mix_gain", "mix_shift", "down_gain", "down_shift")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, _FLOATS) for name in ("words", "positions", "types", "gain", "shift")),
        *((name, _FLOATS) for name in ("dense", "dense_bias", "out", "out_bias")),
        ("layers", ctypes.POINTER(_Layer)),
        ("hidden", ctypes.c_int32),
        ("heads", ctypes.c_int32),
        ("layer_count", ctypes.c_int32),
        ("epsilon", ctypes.c_float),
    )


def library() -> Path | None:
    """The compiled kernels; None where this processor can't run them, or no compiler was there at installation."""
    built = sorted(Path(__file__).parent.glob("native/_bert*.so"))
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return None
    return built[0] if built and {"avx2", "fma"} <= set(flags) else None


class NativeRuntime:
    """A packed model, mapped."""

    def __init__(self, path: Path) -> None:
        built = library()
        if built is None:
            raise SetupError("the native engine's kernels are not built here; set RERANK_ENGINE=openvino")
        self.library = ctypes.CDLL(str(built))
        self.library.bert_open.restype = ctypes.c_void_p
        self.library.bert_close.argtypes = [ctypes.c_void_p]
        self._tensors, metadata = read_tensors(path)
        self.model, self._layers = self._structure(metadata)
        self.width = 1 if "head.dense" in self._tensors else self.model.hidden
        """Of the output: one logit, or a vector."""

    def start(self, threads: int) -> None:
        """Nothing is compiled, and nothing can be lost in a fork."""

    def open(self) -> NativeForward:
        """A forward pass with scratch of its own."""
        return NativeForward(self)

    def _structure(self, metadata: dict[str, str]) -> tuple[_Model, Any]:
        names = self._tensors
        count = sum(name.endswith(".qkv.weights") for name in names)
        layers = (_Layer * count)()
        for number, layer in enumerate(layers):
            for part in ("qkv", "mix", "up", "down"):
                prefix = f"{number}.{part}"
                panels, fours, panel, four = names[f"{prefix}.weights"].shape
                linear = getattr(layer, part)
                linear.inputs, linear.outputs = fours * four, panels * panel
                linear.weights = names[f"{prefix}.weights"].ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
                for field in ("scales", "sums", "bias"):
                    setattr(linear, field, self._floats(f"{prefix}.{field}"))
            for field in ("mix_gain", "mix_shift", "down_gain", "down_shift"):
                setattr(layer, field, self._floats(f"{number}.{field.replace('_', '.')}"))
        model = _Model(
            **{name: self._floats(name) for name in ("words", "positions", "types", "gain", "shift")},
            **{
                name: self._floats(f"head.{name}")
                for name in ("dense", "dense_bias", "out", "out_bias")
                if "head.dense" in names
            },
            layers=layers,
            hidden=names["words"].shape[1],
            heads=int(metadata["heads"]),
            layer_count=count,
            epsilon=float(metadata["epsilon"]),
        )
        return model, layers

    def _floats(self, name: str) -> Any:
        return self._tensors[name].ctypes.data_as(_FLOATS)


class NativeForward:
    """Scratch for one thread; see `webapp.engine.base.Forward`."""

    def __init__(self, runtime: NativeRuntime) -> None:
        self._runtime = runtime  # holds the mapping that the kernels' pointers lead into
        self._scratch = ctypes.c_void_p(runtime.library.bert_open())
        if not self._scratch:
            raise MemoryError

    def __call__(self, input_ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> NDArray[Any]:
        """Run, without the interpreter's lock; rows are padded at their end only."""
        rows, length = input_ids.shape
        lengths = mask.sum(axis=1, dtype=np.int32)
        out = np.empty((rows, self._runtime.width), np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (input_ids, types, lengths, out)]
        failed = self._runtime.library.bert_forward(
            ctypes.byref(self._runtime.model), self._scratch, rows, length, *pointers
        )
        if failed:
            raise MemoryError
        return out

    def __del__(self) -> None:
        if self._scratch:
            self._runtime.library.bert_close(self._scratch)


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors of a safetensors file, mapped, and its metadata."""
    dtypes = {"F32": np.float32, "I8": np.int8}
    mapped = np.memmap(path, np.uint8, mode="r")
    size = int.from_bytes(bytes(mapped[:8]), "little")
    header = json.loads(bytes(mapped[8 : 8 + size]))
    metadata: dict[str, str] = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        start, stop = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = mapped[start:stop].view(dtypes[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata
