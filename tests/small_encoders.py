"""Small random encoders of the families beside BERT and XLM-RoBERTa, and what sentence-transformers makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import small_decoders
import small_models
from tokenizers import Tokenizer, processors

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}

MODERNBERT = {
    "num_hidden_layers": 4,
    "local_attention": 16,
    "global_attn_every_n_layers": 3,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "initializer_cutoff_factor": 2.0,
}
"""Four layers of both kinds of attention, the local one shorter than most texts."""

DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": -1,
    "position_buckets": 32,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "type_vocab_size": 0,
    "pooler_hidden_size": 32,
}
"""mxbai-rerank v1's kind: relative positions in buckets, no token types."""


def word_pieces(**options: Any) -> Any:
    """BERT's tokenizer as its file alone tells it: ids, mask and, unless they are named otherwise, token types."""
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    given = {"model_max_length": 512, "model_input_names": ["input_ids", "attention_mask"], **names, **options}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(small_models.bert_tokenizer().to_str()), mask_token="[MASK]", **given
    )


def byte_level(**options: Any) -> Any:
    """RoBERTa's kind of tokenizer: pieces of bytes, two separators between the texts."""
    from transformers import PreTrainedTokenizerFast

    special = ("<s>", "<pad>", "</s>", "<unk>")
    tokenizer = Tokenizer.from_str(small_decoders.trained(small_decoders.QWEN_SPLIT, special))
    tokenizer.add_special_tokens(list(special))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
        **{"model_max_length": 512, **options},
    )


def build_encoder(directory: Path, architecture: str, *, tokenizer: Any = None, name: str = "", **config: Any) -> Path:
    """An encoder as its own repository has it: weights, config.json, tokenizer.

    Args:
        directory: where to write it.
        architecture: class of transformers.
        tokenizer: a tokenizer of transformers; None: word pieces without token types.
        name: `_name_or_path` in config.json; empty: none.
        config: what differs from `SHAPE`.
    """
    import torch
    import transformers

    tokenizer = tokenizer or word_pieces()
    family = architecture.partition("For")[0].removesuffix("Model")
    torch.manual_seed(5)
    options = {**SHAPE, "vocab_size": len(tokenizer) + 13, "pad_token_id": tokenizer.pad_token_id or 0, **config}
    if architecture.endswith("ForSequenceClassification"):
        options.setdefault("num_labels", 1)
    made = getattr(transformers, architecture)(getattr(transformers, f"{family}Config")(**options))
    directory.mkdir(parents=True)
    made.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if name:
        small_decoders.change(directory / "config.json", _name_or_path=name)
    return directory


def build_modernbert(directory: Path, architecture: str = "ModernBertForSequenceClassification", **config: Any) -> Path:
    return build_encoder(directory, architecture, **{**MODERNBERT, "intermediate_size": 48, **config})


def build_sentence_transformer(
    directory: Path,
    *,
    pooling: str = "mean",
    include_prompt: bool = True,
    dense: int = 0,
    encoder: Path | None = None,
    **options: Any,
) -> Path:
    """A bi-encoder of transformer, pooling and perhaps a dense layer, as sentence-transformers saves it.

    Args:
        directory: where to write it.
        pooling: how a vector is made of the tokens' outputs.
        include_prompt: whether a prompt's tokens count in it.
        dense: width of a dense layer after it; 0: none.
        encoder: transformer and tokenizer; None: a BERT.
        options: of SentenceTransformer.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    encoder = encoder or build_encoder(directory.with_name(f"{directory.name}-encoder"), "BertModel")
    transformer = Transformer(str(encoder))
    width = transformer.get_embedding_dimension()
    torch.manual_seed(6)
    modules = [transformer, Pooling(width, pooling, include_prompt=include_prompt)]
    if dense:
        modules.append(Dense(width * (1 + pooling.count("+")), dense, activation_function=torch.nn.Tanh()))
    SentenceTransformer(modules=modules, **options).save(str(directory))
    return directory


def build_of_modules(directory: Path, modules: Sequence[Any], class_name: str = "SentenceTransformer") -> Path:
    """Whatever class of sentence-transformers these modules make."""
    import sentence_transformers

    getattr(sentence_transformers, class_name)(modules=list(modules)).save(str(directory))
    return directory
