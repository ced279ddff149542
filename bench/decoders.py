"""A decoder of Qwen3-Reranker-0.6B's shape: ours through HTTP, against CrossEncoder.predict of the same weights.

Run: .venv/bin/python bench/decoders.py (--llama PYTHON measures llama.cpp, too, by a Python that has llama-cpp-python
and gguf). Weights are random, so scores mean nothing and the gate is open.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import load
import shapes

from webapp.config.settings import Settings
from webapp.engine.loader import load_engine
from webapp.engine.prepare import check_texts, framing, gate
from webapp.engine.prepare.pipeline import prepare
from webapp.engine.recipes import named_recipe

WORDS = 180
"""A document of about 190 tokens."""

DOCUMENTS = 50
OF_PREDICT = 10
"""It takes as long for each document, and several times longer than we."""

BATCH_SIZES = (1, 2, 4, 8, 16)
QUERY = "what is the question of the large river"

NAME = "Qwen3-Reranker-0.6B"

VOCABULARY = 151_669
"""Rows of the table of words, of which our tokenizer knows fewer."""

SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
}

OPEN = {"engine": "native", "precision": "int8", "max_length_tokens": 512, **shapes.OPEN_GATE}

TEMPLATE = (
    "{prefix}<Instruct>: "
    '{{{{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first'
    ' | default("{instruction}", true) }}}}\n'
    '<Query>: {{{{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}}}\n'
    '<Document>: {{{{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}}}{suffix}'
)
"""Of sentence-transformers' conversions."""


def tokenizer() -> Any:
    """Return the embedded model's words in Qwen's frame: about as many tokens as Qwen's own, if others."""
    from tokenizers import processors

    recipe = named_recipe("qwen3-reranker")
    words = shapes.tokenizer()
    words.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "pad_token": "[PAD]"})
    words.backend_tokenizer.post_processor = processors.TemplateProcessing("$A", "$A $B", [])  # no [CLS]
    words.chat_template = TEMPLATE.format(
        prefix=recipe.prefix[0], instruction=recipe.instruction, suffix=recipe.suffix[0]
    )
    words.model_max_length = 8192
    return words


def decoder() -> Path:
    """Make the model as sentence-transformers saves it."""
    directory = harness.STATE_DIR / f"whole-{NAME}"
    if directory.is_dir():
        return directory
    import torch
    from sentence_transformers import CrossEncoder
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPE, vocab_size=VOCABULARY, tie_word_embeddings=True, pad_token_id=words.pad_token_id)
    raw, staged = directory.with_suffix(".raw"), directory.with_suffix(".new")
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(raw)  # as it is published
    words.save_pretrained(raw)
    CrossEncoder(str(raw), device="cpu").save(str(staged))
    shutil.rmtree(raw)
    staged.rename(directory)
    return directory


def prepared(settings: Settings) -> None:
    """Prepare the model by few and short texts, of words that its tokenizer knows: torch needs seconds for each."""
    for module in (check_texts, framing, gate):
        module.QUERIES, module.DOCUMENTS = (QUERY,), tuple(harness.texts(6, mean_words=40, seed=3))
    examples = harness.STATE_DIR / "decoders.jsonl"
    lines = [{"query": f"{QUERY} {seed}", "documents": harness.texts(6, mean_words=40, seed=seed)} for seed in range(3)]
    examples.write_text("\n".join(map(json.dumps, lines)))
    began = time.perf_counter()
    prepare(settings, print, calibration_data=examples)
    print(f"prepared in {time.perf_counter() - began:.0f} s")


def predict_rate(encoder: Any, texts: Sequence[str], batch_size: int) -> float:
    """Documents a second of CrossEncoder.predict."""
    began = time.perf_counter()
    encoder.predict([(QUERY, text) for text in texts], batch_size=batch_size, show_progress_bar=False)
    return len(texts) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama", type=Path, help="a Python with llama-cpp-python and gguf")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import torch
    from sentence_transformers import CrossEncoder

    model = decoder()
    settings = Settings.model_validate({**OPEN, "model": str(model), "state_dir": harness.STATE_DIR / "state"})
    prepared(settings)
    session = load_engine(settings).open_session()
    asked = harness.texts(DOCUMENTS, mean_words=WORDS, seed=0)
    query = session.encode_query(QUERY)
    ids, lengths, _ = session.encode_documents(query, asked)
    own, pair = statistics.mean(map(len, ids)), round(statistics.mean(lengths.tolist()))
    print(f"\n{harness.machine()}; documents of {own:.0f} tokens, {pair} with query and template\n", flush=True)

    torch.set_num_threads(harness.cores())
    encoder = CrossEncoder(
        str(model), device="cpu", max_length=settings.max_length_tokens, model_kwargs={"dtype": torch.float32}
    )
    trial = harness.texts(OF_PREDICT, mean_words=WORDS, seed=1)
    batch_size = max(BATCH_SIZES, key=lambda size: predict_rate(encoder, trial, size))
    rates: dict[str, list[float]] = {}
    with harness.service(model, cache_mb=0, **OPEN) as service:
        load.closed_loop(service.port, [harness.body(QUERY, asked[:4])], 1)  # warm
        for number in range(options.rounds):
            texts = harness.texts(DOCUMENTS, mean_words=WORDS, seed=10 + number)
            outcome = load.closed_loop(service.port, [harness.body(f"{QUERY} {number}", texts)], 1)
            rates.setdefault("ours, native int8, HTTP", []).append(outcome.rate * DOCUMENTS)
            name = f"CrossEncoder.predict, fp32, batch size {batch_size}"
            rates.setdefault(name, []).append(predict_rate(encoder, texts[:OF_PREDICT], batch_size))
            if options.llama:
                script = Path(__file__).with_name("llama_speed.py")
                command = [options.llama, script, model / "config.json", str(pair), str(OF_PREDICT)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                for kind, rate in json.loads(done.stdout).items():
                    rates.setdefault(f"llama.cpp, {kind}, each pair whole", []).append(rate)
            latest = ", ".join(f"{name} {found[-1]:.2f}" for name, found in rates.items())
            print(f"round {number + 1}: {latest}", flush=True)
        _, workers = service.pids()
        print(
            f"memory of a worker: {', '.join(f'{harness.rss_mb(pid):.0f} MiB' for pid in workers)}, weights included\n"
        )
    print("| | documents/s, median of rounds | ours to it, median of rounds' ratios |\n|---|---|---|")
    first = next(iter(rates.values()))
    for name, found in rates.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(first, found, strict=True))
        print(f"| {name} | {statistics.median(found):.2f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
