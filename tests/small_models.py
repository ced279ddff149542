"""Small random models with their tokenizers, in the shapes that real rerankers have."""

from __future__ import annotations

import json
import random
import unicodedata
from pathlib import Path

from tokenizers import BertWordPieceTokenizer

WORDS = (
    "bees find home by the sun milk stays fresh cold train leaves at midnight paper was paid late hive dance shows"
    " flowers far near station corner post office walk five minutes über größe naïve café привет мир 駅 東京 نعم 🐝"
).split()

_WHOLE = [word for number, word in enumerate(WORDS) if number % 5]

ODD_TEXTS = (
    "",
    " \t\n ",
    "\x00null\x00inside",
    "\u202eright to left\u202c שלום عربي",
    "🐝" * 40,
    "e\u0301\u0301\u0301 \u200b\ufeff combining",
    "\ufffd replaced",
    "A" * 2000,
)


def texts(count: int, seed: int = 0) -> list[str]:
    """Distinct texts: mostly of ordinary length, some past any limit, some odd."""
    rng = random.Random(seed)
    made = [f"{number} " + " ".join(rng.choices(WORDS, k=rng.choice((1, 5, 20, 80, 600)))) for number in range(count)]
    made[: len(ODD_TEXTS)] = ODD_TEXTS[:count]
    return made


def bert_tokenizer() -> BertWordPieceTokenizer:
    """Most of the words whole, the rest in letters. Not trained: training gives other pieces in each process."""
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    letters = [text for letter in _letters() for text in (letter, f"##{letter}")]
    pieces = dict.fromkeys((*special, *letters, *_WHOLE))
    return BertWordPieceTokenizer({piece: number for number, piece in enumerate(pieces)}, lowercase=True)


def _letters() -> list[str]:
    text = unicodedata.normalize("NFD", " ".join(texts(200)))
    return sorted(set(text.lower()) | set(text) - {" "})


def build_bert(directory: Path, *, max_length: int = 512, labels: int = 1) -> Path:
    """A two-layer BERT cross-encoder."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    tokenizer = bert_tokenizer()
    directory.mkdir(parents=True)
    tokenizer.save(str(directory / "raw.json"))
    fast = BertTokenizerFast(tokenizer_file=str(directory / "raw.json"), model_max_length=max_length)
    (directory / "raw.json").unlink()
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=400,  # tables are often longer than the vocabulary
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=max_length,
        num_labels=labels,
        initializer_range=0.2,
    )
    BertForSequenceClassification(config).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def build_xlm_roberta(directory: Path, *, max_length: int | None = 512, labels: bool = True) -> Path:
    """A two-layer XLM-RoBERTa cross-encoder: no token types, two separators, positions that start at 2.

    Args:
        directory: where to write it.
        max_length: what its tokenizer claims; None: it claims no limit.
        labels: without, it is the bare encoder.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        PreTrainedTokenizerFast,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
        XLMRobertaModel,
    )

    special = ("<s>", "<pad>", "</s>", "<unk>")
    pieces = dict.fromkeys((*special, "▁", *_letters(), *(f"▁{word}" for word in _WHOLE)))
    likely = [(piece, -1.0 - number / len(pieces)) for number, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(likely, unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    )
    torch.manual_seed(2)
    config = XLMRobertaConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        num_labels=1,
        initializer_range=0.2,
    )
    directory.mkdir(parents=True)
    (XLMRobertaForSequenceClassification if labels else XLMRobertaModel)(config).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory


def build_bi_encoder(
    directory: Path,
    *,
    max_length: int | None = None,
    similarity: str | None = None,
    normalize: bool = False,
    truncate_dim: int | None = None,
) -> Path:
    """A two-layer XLM-RoBERTa as SentenceTransformer, whose vectors have many lengths.

    Args:
        directory: where to write it.
        max_length: its `max_seq_length`; None: nothing says it.
        similarity: its `similarity_fn_name`; None: it names none.
        normalize: its last module brings vectors to length 1.
        truncate_dim: how much of a vector counts; None: all.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    encoder = build_xlm_roberta(directory.with_name(f"{directory.name}-encoder"), max_length=None, labels=False)
    transformer = Transformer(str(encoder))
    transformer.model.encoder.layer[-1].output.LayerNorm.weight.data[:3] *= 9
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    modules = [transformer, pooling, *([Normalize()] if normalize else [])]
    SentenceTransformer(modules=modules, similarity_fn_name=similarity, truncate_dim=truncate_dim).save(str(directory))
    if max_length is not None:
        config = directory / "sentence_bert_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "max_seq_length": max_length}))
    return directory
