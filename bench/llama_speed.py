"""llama.cpp on a decoder's shape, with random weights: documents a second, each pair computed whole.

bench/decoders.py runs it, by a Python that has llama-cpp-python and gguf:
python bench/llama_speed.py CONFIG.JSON TOKENS DOCUMENTS
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

KINDS = ("F16", "Q8_0", "Q4_0")
VOCABULARY = 2048
ROWS = 4
"""Pairs of a batch; one makes no difference of more than a twentieth."""

ROUNDS = 2


def write(path: Path, config: dict, kind: str) -> None:
    """Write a model; all layers have the same weights, which changes no speed: they fit into no cache."""
    kept = gguf.GGMLQuantizationType[kind]
    rng = np.random.default_rng(0)
    hidden, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads, kv_heads, dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(wide)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(1e6)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    shapes = {
        "attn_q": (heads * dim, hidden),
        "attn_k": (kv_heads * dim, hidden),
        "attn_v": (kv_heads * dim, hidden),
        "attn_output": (hidden, heads * dim),
        "ffn_gate": (wide, hidden),
        "ffn_up": (wide, hidden),
        "ffn_down": (hidden, wide),
    }

    def matrix(*shape: int) -> np.ndarray:
        return gguf.quants.quantize(rng.standard_normal(shape, dtype=np.float32) * np.float32(0.03), kept)

    matrices = {name: matrix(*shape) for name, shape in shapes.items()}
    norms = {"attn_norm": hidden, "ffn_norm": hidden, "attn_q_norm": dim, "attn_k_norm": dim}
    writer.add_tensor("token_embd.weight", matrix(VOCABULARY, hidden), raw_dtype=kept)
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for layer in range(layers):
        for name, tensor in matrices.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", tensor, raw_dtype=kept)
        for name, width in norms.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def opened(path: Path, tokens: int) -> object:
    """Return a context of this model with room for a batch."""
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    options = llama_cpp.llama_context_default_params()
    options.n_ctx = options.n_batch = ROWS * tokens + 256
    options.n_seq_max = ROWS
    options.kv_unified = True
    options.n_threads = options.n_threads_batch = len(os.sched_getaffinity(0))
    return llama_cpp.llama_init_from_model(model, options)


def compute(context: object, rows: int, tokens: int) -> None:
    """Compute some sequences of random tokens, for the logits of their last ones."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(rows * tokens, 0, rows)
    batch.n_tokens = rows * tokens
    ids = np.random.default_rng(1).integers(5, VOCABULARY, (rows, tokens))
    for row in range(rows):
        for place in range(tokens):
            at = row * tokens + place
            batch.token[at], batch.pos[at] = int(ids[row, place]), place
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, row
            batch.logits[at] = place == tokens - 1
    assert llama_cpp.llama_decode(context, batch) == 0
    llama_cpp.llama_batch_free(batch)


def main() -> None:
    config, tokens, documents = json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2]), int(sys.argv[3])
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, None)
    llama_cpp.llama_backend_init()
    best = dict.fromkeys(KINDS, 0.0)
    with tempfile.TemporaryDirectory() as home:
        for kind in KINDS:
            write(Path(home) / kind, config, kind)
        contexts = {kind: opened(Path(home) / kind, tokens) for kind in KINDS}
        for _ in range(ROUNDS):
            for kind, context in contexts.items():
                began = time.perf_counter()
                for _ in range(max(1, documents // ROWS)):
                    compute(context, ROWS, tokens)
                rate = max(1, documents // ROWS) * ROWS / (time.perf_counter() - began)
                best[kind] = max(best[kind], rate)
    print(json.dumps(best))


main()
