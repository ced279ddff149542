"""Pack a model for the native engine: int8 weights in the order in which its kernels read them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.architecture import Architecture, Floats, Head, Layer, Matrix, floats_of
from webapp.engine.prepare.architectures import architecture_of
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.prepare.smoothing import measure_peaks, smooth
from webapp.engine.runtimes.packed import (
    ACTIVATIONS,
    DTYPES,
    FILLER,
    MATRICES,
    PANEL,
    SIZES,
    Tensors,
    groups_of,
)

STEP = 8
"""Inputs that the kernels read at once, as in native/ops.h."""

LARGEST_LANE_SUM = 128
"""A 16-bit lane holds four products of 0..255 and an int8 weight: 255 x 128 stays below 2^15, of either sign."""

LEAST = 1e-12
"""A row or a channel of zeros gets a scale as if this were its largest number."""

GROUPS = {0: 384, 1: 128}
"""Inputs that share a scale, by whether a model normalises what it reads, or what it has added to.

Outlier channels spoil the precision of their group's others, and no more. They are larger where nothing normalises the
sums that layers add to. Smaller groups take more time; see docs/performance.md.
"""

ROWS_AT_ONCE = 8192
"""Rows of a table of words that are packed at once: a table of 250,000 has a gigabyte."""


def pack(
    source: SourceModel,
    path: Path,
    run: Callable[[], object] | None = None,
    report_share: ReportShare = lambda _share: None,
) -> bool:
    """Write the packed model as a safetensors file.

    Args:
        source: what to pack.
        path: the file to write.
        run: computes some texts with it, to see how large its activations are; None: it is packed as it is.
        report_share: takes the share that is done.

    Returns:
        False, and nothing written, when the native engine does not know the architecture.
    """
    found = architecture_of(source)
    if found is None:
        return False
    pack_architecture(found, path, run, report_share)
    return True


def pack_architecture(
    found: Architecture,
    path: Path,
    run: Callable[[], object] | None = None,
    report_share: ReportShare = lambda _share: None,
) -> None:
    """Write a model; see `pack`."""
    peaks = measure_peaks(found, run) if run else None
    tensors: Tensors = {**pack_words(found.words), **found.tables, **_norm_tensors(found, "words")}
    group = GROUPS[int(found.shape["norms_first"])]
    if found.widened:
        tensors |= {f"widened.{part}": tensor for part, tensor in pack_matrix(found.widened, group).items()}
    for number, make in enumerate(found.layers):
        layer = make()
        if peaks:
            smooth(layer, peaks[number], found.shape)
        tensors |= {f"{number}.{name}": tensor for name, tensor in _layer_tensors(layer, group)}
        report_share((number + 1) / len(found.layers))
    tensors |= _norm_tensors(found, "last")
    if found.head:
        tensors |= {f"head.{name}": tensor for name, tensor in _head_tensors(found.head)}
    count, embedded = tensors["words"].shape
    write_tensors(path, tensors, sizes_of(found, vocabulary=count, embedded=embedded, group=group))


def sizes_of(found: Architecture, *, vocabulary: int, embedded: int, group: int) -> dict[str, str]:
    """Return what native/border.h's Shape says of a model, as a safetensors file has it."""
    shape = {
        **found.shape,
        "vocabulary": vocabulary,
        "embedded": embedded,
        "layers": len(found.layers),
        "group": group,
        "normalises_words": int("words" in found.norms),
        "scores": int(found.head is not None),
        "head_dense": int(found.head is not None and found.head.dense is not None),
        "head_activation": ACTIVATIONS.index(found.head.activation if found.head else "identity"),
        "head_norm": int(found.head is not None and found.head.norm is not None),
    }
    sizes = {name: str(shape[name]) for name in SIZES}
    return sizes | {"epsilon": repr(float(shape["epsilon"]))}


def _norm_tensors(found: Architecture, name: str) -> Tensors:
    norm = found.norms.get(name)
    if norm is None:
        return {}
    return {f"{name}.gain": norm.gain, **({} if norm.shift is None else {f"{name}.shift": norm.shift})}


def _layer_tensors(layer: Layer, group: int) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield a layer's tensors, its matrices in int8."""
    matrices = dict(layer.matrices)
    parts = [matrices.pop(name) for name in ("queries", "keys", "values")]
    weights, biases = [each.weight for each in parts], [each.bias for each in parts]
    matrices["qkv"] = Matrix(np.concatenate(weights), np.concatenate(biases))
    for name in MATRICES:
        if name in matrices:
            yield from ((f"{name}.{part}", tensor) for part, tensor in pack_matrix(matrices[name], group).items())
    for name, norm in layer.norms.items():
        yield f"{name}.gain", norm.gain
        if norm.shift is not None:
            yield f"{name}.shift", norm.shift
    yield from ((f"{name}.gain", gain) for name, gain in layer.head_gains.items())


def _head_tensors(head: Head) -> Iterator[tuple[str, Floats]]:
    if head.dense:
        yield from (("dense", head.dense.weight), ("dense_bias", head.dense.bias))
    if head.norm and head.norm.shift is not None:
        yield from (("gain", head.norm.gain), ("shift", head.norm.shift))
    yield from (("out", head.out.weight[0]), ("out_bias", head.out.bias))


def pack_words(words: torch.nn.Embedding) -> Tensors:
    """Return a table of words in int8, with a scale for each row and one for each column.

    A column's is between its root mean square and its largest number: some columns are many times the others, and so
    are some numbers of a column; either would leave others few of int8's steps.
    """
    count, width = words.num_embeddings, words.embedding_dim
    squares, largest = np.zeros(width), np.zeros(width, np.float32)
    for _, rows in _chunks(words):
        squares += np.square(rows, dtype=np.float64).sum(axis=0)
        largest = np.maximum(largest, np.abs(rows).max(axis=0))
    channels = np.maximum(np.sqrt(np.sqrt(squares / count) * largest), LEAST).astype(np.float32)
    values = np.empty((count, width), np.int8)
    scales = np.empty(count, np.float32)
    for chunk, rows in _chunks(words):
        in_channels = rows / channels
        scales[chunk] = np.maximum(np.abs(in_channels).max(axis=1), LEAST) / 127
        values[chunk] = np.rint(in_channels / scales[chunk, None])
    return {"words": values, "words.scales": scales, "words.channels": channels}


def _chunks(words: torch.nn.Embedding) -> Iterator[tuple[slice, Floats]]:
    for start in range(0, words.num_embeddings, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, words.num_embeddings)
        with torch.inference_mode():
            yield slice(start, stop), floats_of(words(torch.arange(start, stop, device=words.weight.device)))


def pack_matrix(matrix: Matrix, group: int) -> Tensors:
    """Return a matrix in int8, with a scale for each output and each group of inputs."""
    outputs, inputs = matrix.weight.shape
    group = min(group, inputs)
    groups = groups_of(inputs, group)
    filled = np.zeros((outputs, groups * group), np.float32)
    filled[:, :inputs] = matrix.weight
    values, scales = _quantized(filled.reshape(outputs * groups, group))
    sums = values.sum(axis=1, dtype=np.int32)

    def by_panel(figures: NDArray[Any]) -> Floats:
        return np.ascontiguousarray(figures.reshape(outputs // PANEL, PANEL, groups).transpose(0, 2, 1), np.float32)

    values = values.reshape(outputs, groups * group)[:, :inputs]
    return {"weights": _in_panels(values), "scales": by_panel(scales), "sums": by_panel(sums), "bias": matrix.bias}


def _quantized(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return each row in int8, and its scale.

    The scale is the finest with which no 16-bit lane of the kernel can overflow; see native/ops_avx2.c.
    """
    rows, inputs = weight.shape
    scales = np.maximum(np.abs(weight).max(axis=1), LEAST) / 127
    values = np.empty(weight.shape, np.int8)
    left = np.arange(rows)
    while len(left):
        tried = np.rint(weight[left] / scales[left, None]).astype(np.int16)
        values[left] = tried
        # Of eight inputs, 0 1 4 5 share one lane and 2 3 6 7 the other.
        fours = tried.reshape(len(left), inputs // STEP, 2, 2, 2).transpose(0, 1, 3, 2, 4).reshape(len(left), -1, 4)
        worst = np.maximum(np.maximum(fours, 0).sum(axis=2), -np.minimum(fours, 0).sum(axis=2)).max(axis=1)
        over = worst > LARGEST_LANE_SUM
        left, worst = left[over], worst[over]
        scales[left] *= np.maximum(worst / LARGEST_LANE_SUM, 1.002)
    return values, scales


def _in_panels(values: NDArray[np.int8]) -> NDArray[np.int8]:
    outputs, inputs = values.shape
    return np.ascontiguousarray(values.reshape(outputs // PANEL, PANEL, inputs // 4, 4).transpose(0, 2, 1, 3))


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file (8 bytes of header length, JSON header, data), its tensors aligned to 64 bytes.

    The library's own writer aligns to 8, so that vectors would straddle cache lines.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, tensor in tensors.items():
        size = -(-tensor.nbytes // 64) * 64
        if size != tensor.nbytes:
            # The format allows no holes between tensors.
            offsets = [at + tensor.nbytes, at + size]
            header[f"{name}{FILLER}"] = {"dtype": "I8", "shape": [size - tensor.nbytes], "data_offsets": offsets}
        offsets = [at, at + tensor.nbytes]
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        at += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % 64)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            file.write(tensor.data)  # tofile has an error without a number where the disk is full
            file.write(b"\0" * (-tensor.nbytes % 64))
