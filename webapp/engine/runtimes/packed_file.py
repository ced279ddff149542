"""Map the tensors of a packed model: a safetensors file whose every statement is checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from webapp.engine.artifact import damaged

Tensors = dict[str, NDArray[Any]]

FILLER = ".filler"
"""Ends the names of tensors that only keep the next one aligned."""

_LENGTH_BYTES = 8
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype(np.float32), "I8": np.dtype(np.int8)}
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Entry(msgspec.Struct, frozen=True):
    dtype: Literal["F32", "I8"]
    shape: list[_Count]
    data_offsets: tuple[_Count, _Count]


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """Map the tensors of a file; return them and its metadata.

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
    """Views of the data, one after the other as the format has them: no overlaps, no holes, nothing at the end."""
    tensors = {}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        dtype = _DTYPES[entry.dtype]
        if start != end or not start <= stop <= len(data):
            raise ValueError(f"{name} would take bytes {start:,} to {stop:,}, of {len(data):,}, and {end:,} is next")
        if math.prod(entry.shape) * dtype.itemsize != stop - start:
            raise ValueError(f"{name} has the shape {entry.shape} and {stop - start:,} bytes")
        tensors[name] = data[start:stop].view(dtype).reshape(entry.shape)
        end = stop
    if end != len(data):
        raise ValueError(f"{len(data) - end:,} bytes follow its last tensor")
    return tensors
