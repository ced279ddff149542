"""What `reranking prepare` takes for the shapes of big rerankers: time, peak memory, disk. Weights are random.

Random weights are no judge of int8, so the gate is open, and the first candidate is served; `--gate` keeps the gate as
it is, and more candidates are built and judged where it refuses one. Run: .venv/bin/python bench/preparing.py
[--gate] [SHAPE ...]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import decoders
import harness
import shapes

ENCODERS = {"bge-reranker-base": (12, 768, 3072, 12, 514), "bge-reranker-v2-m3": (24, 1024, 4096, 16, 8194)}
"""Layers, width, width between, heads, positions of XLM-RoBERTa."""

VOCABULARY = 250_002
"""Rows of XLM-RoBERTa's table of words, of which our tokenizer knows fewer: two thirds of bge-reranker-base."""

SHAPES = [*ENCODERS, decoders.NAME]

BOUND = 2.5, 1.5e9
"""The memory that is allowed: times the float32 weights, and bytes for the libraries."""


def encoder(name: str) -> Path:
    """Make a model of a shape of XLM-RoBERTa's."""
    directory = harness.STATE_DIR / f"whole-{name}"
    if directory.is_dir():
        return directory
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    layers, width, between, heads, positions = ENCODERS[name]
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=between,
        num_attention_heads=heads,
        max_position_embeddings=positions,
        type_vocab_size=1,
        pad_token_id=0,  # the tokenizer's
        num_labels=1,
    )
    torch.manual_seed(0)
    staged = directory.with_suffix(".new")
    XLMRobertaForSequenceClassification(config).save_pretrained(staged)
    shapes.tokenizer().save_pretrained(staged)
    staged.rename(directory)
    return directory


def float32_bytes(model: Path) -> float:
    """Return the bytes of a model's weights in float32."""
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "pt") as file:
        weights: int = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118 - no dict
    return weights * 4.0


def measure(name: str, gate: dict[str, Any]) -> str:
    """Prepare a shape in a process of its own; return a row of the table."""
    model = encoder(name) if name in ENCODERS else decoders.decoder()
    state = harness.STATE_DIR / "preparing"
    shutil.rmtree(state, ignore_errors=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RERANK_")}
    environment |= {f"RERANK_{key.upper()}": str(value) for key, value in gate.items()}
    environment |= {"RERANK_MODEL": str(model), "RERANK_STATE_DIR": str(state), "RERANK_MAX_LENGTH_TOKENS": "512"}
    print(f"\n{name}", flush=True)
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "webapp", "prepare"], env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    took_s = time.perf_counter() - began
    if status:
        sys.exit(f"{name} was not prepared")
    disk = sum(path.stat().st_size for path in (state / "models").rglob("*") if path.is_file())
    times, libraries = BOUND
    figures = (
        f"{took_s:.0f} s",
        f"{usage.ru_utime + usage.ru_stime:.0f} s",
        f"{usage.ru_maxrss * 1024 / 1e9:.2f} GB",
        f"{(times * float32_bytes(model) + libraries) / 1e9:.2f} GB",
        f"{disk / 1e6:,.0f} MB",
    )
    return f"| {name} | {' | '.join(figures)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gate", action="store_true", help="keep the gate as it is")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=", ".join(SHAPES))
    options = parser.parse_args()
    names = options.shapes or SHAPES
    unknown = [name for name in names if name not in SHAPES]
    if unknown:
        parser.error(f"{unknown[0]} is no shape; there are: {', '.join(SHAPES)}")
    rows = [measure(name, {} if options.gate else shapes.OPEN_GATE) for name in names]
    print(f"\n{harness.machine()}; the gate {'as it is' if options.gate else 'open'}\n")
    print("| shape | time | processor time | peak memory | at most 2.5 x float32 + 1.5 GB | on disk |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
