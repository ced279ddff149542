"""How much memory and disk a model takes, by its files' tables of contents: known before it is loaded."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from webapp.config.resources import free_bytes
from webapp.domain.errors import SetupError
from webapp.engine.models.layout import Layout

FLOAT_TYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""Names in safetensors files of what becomes float32."""

FLOAT32_BYTES = 4
_LENGTH_BYTES = 8


def check_memory(layout: Layout) -> None:
    """Refuse a model whose weights in float32 are more than all memory that can be had.

    Raises:
        SetupError: with what is needed, and what there is.
    """
    needed, there = weight_bytes(layout), free_bytes(active_cache=True)
    if needed > there:
        raise SetupError(
            f"RERANK_MODEL: {layout.directory} takes {needed / 1e9:.1f} GB of memory in float32, and"
            f" {there / 1e9:.1f} GB are free; prepare it where there are more and copy models/ of the state directory,"
            " or name a smaller model"
        )


def check_disk(layout: Layout, directory: Path, copies: float) -> None:
    """Refuse to write a model where it can't fit: OpenVINO's errors don't tell a full disk from a broken model.

    Args:
        layout: the model.
        directory: where it is to be written.
        copies: how much is written, as a share of its weights in float32.

    Raises:
        SetupError: with what is needed, and what there is.
    """
    needed, there = copies * weight_bytes(layout), shutil.disk_usage(directory).free
    if needed > there:
        raise SetupError(
            f"RERANK_STATE_DIR: {directory.parent.parent} has {there / 1e9:.2f} GB of its disk free, and"
            f" {needed / 1e9:.2f} GB are needed to convert {layout.directory}; make room there, and run it again"
        )


def weight_bytes(layout: Layout) -> int:
    """Return how much memory a model's weights take at least in float32, whatever its files hold.

    Of files of torch's nothing is known but their size.
    """
    where = layout.transformer
    shards = sorted(where.glob("model.safetensors.index.json"))
    if (where / "model.safetensors").is_file():
        tables = [_contents(where / "model.safetensors")]
    elif shards:
        names = sorted({*json.loads(shards[0].read_bytes())["weight_map"].values()})
        tables = [_contents(where / name) for name in names]
    else:
        return sum(path.stat().st_size for path in where.glob("pytorch_model*.bin"))
    unread = {"lm_head.weight"} if not layout.architecture.endswith("ForCausalLM") or _is_tied(layout) else set()
    weights: int = sum(
        math.prod(entry["shape"])
        for table in tables
        for name, entry in table.items()
        if name not in unread and entry["dtype"] in FLOAT_TYPES
    )
    return weights * FLOAT32_BYTES


def _is_tied(layout: Layout) -> bool:
    """Return whether the head is the table of words."""
    return bool(layout.config.get("tie_word_embeddings", True))


def _contents(path: Path) -> dict[str, Any]:
    """Return the entries of a safetensors file, which `layout` has checked."""
    with path.open("rb") as file:
        found: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little")))
    return {name: entry for name, entry in found.items() if name != "__metadata__"}
