"""Pack a model for a GPU: its matrices in 16 bits or 32, fused as `runtimes.gpu.graph` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from webapp.engine.models.source import SourceModel
from webapp.engine.prepare.architecture import Architecture, Layer, Matrix, Norm
from webapp.engine.prepare.architectures import architecture_of
from webapp.engine.prepare.pack import sizes_of
from webapp.engine.prepare.progress import ReportShare
from webapp.engine.runtimes.gpu.graph import divisor_of

Named = Iterator[tuple[str, torch.Tensor]]


def pack_floats(
    source: SourceModel, path: Path, dtype: torch.dtype, report_share: ReportShare = lambda _share: None
) -> bool:
    """Write a model as a safetensors file.

    Args:
        source: what to pack.
        path: the file to write.
        dtype: of its matrices and tables; what is small stays in float32.
        report_share: takes the share that is done.

    Returns:
        False, and nothing written, where the GPU's graph does not know the architecture.
    """
    found = architecture_of(source)
    if found is None:
        return False
    tensors = dict(_tensors(found, dtype, report_share))
    sizes = sizes_of(found, vocabulary=found.words.num_embeddings, embedded=found.words.embedding_dim, group=1)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, sizes)
    path.chmod(0o644)  # as the other files: an artifact may be copied to another user
    return True


def _tensors(found: Architecture, dtype: torch.dtype, report_share: ReportShare) -> Named:
    with torch.inference_mode():
        words = found.words(torch.arange(found.words.num_embeddings, device=found.words.weight.device))
    yield "words", words.to("cpu", dtype)
    for name, table in found.tables.items():
        yield name, torch.from_numpy(table).to(torch.float32 if name == "frequencies" else dtype)
    for name, norm in found.norms.items():
        yield from _norm(name, norm)
    if found.widened:
        yield from _linear("widened", [found.widened], dtype)
    for number, make in enumerate(found.layers):
        yield from ((f"{number}.{name}", tensor) for name, tensor in _layer(make(), found, dtype))
        report_share((number + 1) / len(found.layers))
    if head := found.head:
        if head.dense:
            yield "head.dense", torch.from_numpy(head.dense.weight)
            yield "head.dense_bias", torch.from_numpy(head.dense.bias)
        if head.norm:
            yield from _norm("head", head.norm)
        yield "head.out", torch.from_numpy(head.out.weight[0])
        yield "head.out_bias", torch.from_numpy(head.out.bias)


def _layer(layer: Layer, found: Architecture, dtype: torch.dtype) -> Named:
    parts, shape = layer.matrices, found.shape
    # Queries come scaled, and torch's attention scales.
    factor = np.float32(divisor_of(int(shape["dim"])))
    queries = parts["queries"]
    if not layer.head_gains:
        queries = Matrix(queries.weight * factor, queries.bias * factor)
    yield from _linear("qkv", [queries, parts["keys"], parts["values"]], dtype)
    yield from _linear("mix", [parts["mix"]], dtype)
    yield from _linear("up", [parts[name] for name in ("gate", "up") if name in parts], dtype)
    yield from _linear("down", [parts["down"]], dtype)
    for name, norm in layer.norms.items():
        yield from _norm(name, norm)
    if layer.head_gains:
        gains = [(layer.head_gains["query"] * factor, shape["heads"]), (layer.head_gains["key"], shape["kv_heads"])]
        yield "heads.gain", torch.from_numpy(np.concatenate([np.tile(gain, (int(n), 1)) for gain, n in gains]))


def _linear(name: str, parts: list[Matrix], dtype: torch.dtype) -> Named:
    yield f"{name}.weight", torch.from_numpy(np.concatenate([each.weight for each in parts])).to(dtype)
    bias = np.concatenate([each.bias for each in parts])
    if bias.any():
        yield f"{name}.bias", torch.from_numpy(bias).to(dtype)


def _norm(name: str, norm: Norm) -> Named:
    yield f"{name}.gain", torch.from_numpy(norm.gain)
    if norm.shift is not None:
        yield f"{name}.shift", torch.from_numpy(norm.shift)
