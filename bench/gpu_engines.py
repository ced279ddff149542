"""The GPU engine as gpu.py drives it: in the service's own engine, or bare, and the batches that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_models import Arrays

Forward = Callable[[Any, Any, Any], Any]
"""See `webapp.engine.base.Forward`."""


class Plain:
    """The GPU engine's model without compiled code and without graphs; a runtime and its forward pass."""

    padded = False

    def __init__(self, path: Path, precision: Any, device: str) -> None:
        import torch
        from safetensors.torch import load_file

        from webapp.engine.runtimes.gpu.attention import usable_attention
        from webapp.engine.runtimes.gpu.device import DTYPES, GpuRuntime
        from webapp.engine.runtimes.gpu.graph import Graph

        self.shape, dtype, place = GpuRuntime(path, precision).shape, DTYPES[precision], torch.device(device)
        attention = usable_attention(place, dtype, self.shape["dim"])
        self._graph = Graph(self.shape, load_file(path, device), dtype, attention)
        self._one_each = torch.arange(100_000, dtype=torch.int32, device=place)

    def start(self, threads: int) -> None:
        """Do nothing: all is ready."""

    def open(self) -> Plain:
        return self

    def packed(self, ids: Any, mask: Any, types: Any) -> Any:
        """Return a batch as the engine packs it."""
        from webapp.engine.runtimes.gpu.batch import pack_sharing, pack_whole

        shares = self._graph.shares
        return pack_sharing(ids, mask, types) if shares else pack_whole(ids, mask, types, self.shape["pad"])

    def __call__(self, ids: Any, mask: Any, types: Any) -> Any:
        """Compute as `GpuForward` does."""
        import torch

        from webapp.engine.runtimes.gpu.graph import Inputs

        b = self.packed(ids, mask, types)
        parts = [b.ids, b.positions, b.types, b.starts, b.seen_starts, b.seen]
        there = [None if part is None else torch.from_numpy(part).to(self._one_each.device) for part in parts]
        with torch.inference_mode():
            out = self._graph(Inputs(*there, b.rows, b.longest, b.longest_seen), self._one_each)
        return out.float().cpu().numpy()


def operations(shape: dict[str, Any], batch: Any) -> float:
    """Return the floating-point operations of a packed batch.

    Of the last layer they are keys and values of all tokens, and the rest of scored ones.
    """
    hidden, wide, heads, keys, dim = (shape[name] for name in ("hidden", "wide", "heads", "kv_heads", "dim"))
    kv = 2 * hidden * keys * dim
    rest = 2 * hidden * heads * dim + (3 if shape["gated"] else 2) * hidden * wide
    queries, seen = np.diff(batch.starts).astype(float), np.diff(batch.seen_starts).astype(float)
    everything = float((queries * (seen - queries / 2 if shape["causal"] else seen)).sum())
    window = 2 * shape["window"] + 1 if shape["window"] else 0
    near = float((queries * np.minimum(seen, window)).sum())
    layers = range(shape["layers"])
    local = sum(bool(window) and number % shape["global_every"] != 0 for number in layers)
    attention = 4 * heads * dim * (local * near + (shape["layers"] - 1 - local) * everything)
    matrices = batch.tokens * (shape["layers"] * kv + (shape["layers"] - 1) * rest) + batch.rows * rest
    return float(2 * matrices + attention)


def engine_of(source: Any, directory: Path, runtime: Any, precision: Any, batch_tokens: int) -> Any:
    """Return the service's engine of a model, without `prepare`: nothing is judged or measured first."""
    from webapp.domain.types import Tuning
    from webapp.engine.artifact import FORMAT, TOKENIZER, Manifest
    from webapp.engine.loader import ModelEngine
    from webapp.engine.prepare.export import export_tokenizer

    directory.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        format=FORMAT,
        model=directory.name,
        revision="",
        kind=source.kind,
        engine="torch",
        precision=precision,
        score_scale=source.score_scale,
        template=export_tokenizer(source, directory),
        tables=source.tables,
        recipe=source.recipe,
        prompts=source.prompts,
        pools_prompts=source.pools_prompts,
        unit_vectors=source.unit_vectors,
        activation=source.layout.activation,
        fingerprint="",
        source="",
        substitute_for=None,
        fidelity={},
        tuning=Tuning(batch_tokens=batch_tokens),
        chosen_because="",
        files={},
        versions={},
        prepared_at="",
    )
    return ModelEngine(manifest, runtime, directory / TOKENIZER)


def arrays_of(engine: Any, query: str, documents: Sequence[str]) -> Arrays:
    """Return what a session gives the runtime for these documents."""
    taken: list[Arrays] = []

    def record(*given: Any) -> Any:
        taken.append((given[0], given[1], given[2]))
        return np.zeros((len(given[0]), 1), np.float32)

    session = engine.open_session(record)
    own = session.encode_query(query)
    ids, lengths, _ = session.encode_documents(own, documents)
    session.score([(own, each) for each in ids], int(lengths.max()))
    return taken[-1]


def some(rows: Arrays, part: Any) -> Arrays:
    """Return some of the rows, without columns that are padding in all of them."""
    ids, mask, types = (each[part] for each in rows)
    longest = int((mask != 0).sum(axis=1).max())
    return ids[:, :longest], mask[:, :longest], types[:, :longest]


def batches_of(rows: Arrays, tokens: int) -> list[Arrays]:
    """Return rows in batches of at most so many tokens."""
    lengths = (rows[1] != 0).sum(axis=1)
    starts, held = [0], 0
    for number, length in enumerate(lengths):
        if held and held + length > tokens:
            starts.append(number)
            held = 0
        held += int(length)
    return [some(rows, slice(*each)) for each in zip(starts, [*starts[1:], len(lengths)], strict=True)]


def alone(forward: Forward, rows: Arrays, at_once: int = 1) -> Any:
    """Return the output of each row alone, or in groups of so many."""
    starts = range(0, len(rows[0]), at_once)
    return np.concatenate([forward(*some(rows, slice(start, start + at_once))) for start in starts])
