"""Small random decoders with tokenizers like those of the real ones, as their repositories lay out their files."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import small_models
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")

CHATTERY = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat model's template, which knows no query and no document."""


@functools.cache
def trained(split: str, special: tuple[str, ...] = ()) -> str:
    """Byte-level pieces of pairs of letters, after special tokens; the same in each process."""
    pieces = {name: number for number, name in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = []
    words = "yes Yes no No 1 0 query document Query Document Instruct question passage system user assistant".split()
    for word in [*words, *small_models.WORDS[:20]]:
        for spelled in (word, f"Ġ{word}"):
            if not spelled.isascii() and not spelled[1:].isascii():
                continue
            for stop in range(2, len(spelled) + 1):
                if spelled[:stop] not in pieces:
                    pieces[spelled[:stop]] = len(pieces)
                    merges.append((spelled[: stop - 1], spelled[stop - 1]))
    tokenizer = Tokenizer(models.BPE(pieces, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


def qwen_tokenizer(**options):
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(trained(QWEN_SPLIT))
    tokenizer.add_special_tokens(list(QWEN_SPECIAL))
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=131072,
        **{"chat_template": CHATTERY, **options},
    )


def llama_tokenizer():
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(trained(LLAMA_SPLIT))
    tokenizer.add_special_tokens(list(LLAMA_SPECIAL))
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|> $B",
        special_tokens=[("<|begin_of_text|>", begin)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<|end_of_text|>"
    )


def gemma_tokenizer():
    """Pieces as SentencePiece's: no split at white space, "▁" in its place, letters that it lacks as bytes."""
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    pieces = {
        piece: number for number, piece in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "\n"])
    }
    merges = []
    for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.,?'":
        pieces.setdefault(letter, len(pieces))
    for word in ["Yes", "No", "query", "passage", "▁the", "▁A", "▁B", "bees", "find", "home"]:
        for stop in range(2, len(word) + 1):
            if word[:stop] not in pieces:
                pieces[word[:stop]] = len(pieces)
                merges.append((word[: stop - 1], word[stop - 1]))
    from tokenizers import normalizers

    tokenizer = Tokenizer(models.BPE(pieces, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}


def build_decoder(
    directory: Path, architecture: str = "Qwen3ForCausalLM", *, tokenizer=None, name: str = "", **config
) -> Path:
    """A decoder as its own repository has it: weights, config.json, tokenizer.

    Args:
        directory: where to write it.
        architecture: class of transformers.
        tokenizer: a tokenizer of transformers; None: Qwen's kind.
        name: `_name_or_path` in config.json; empty: none.
        config: what differs from `SHAPE`.
    """
    import torch
    import transformers

    tokenizer = tokenizer or qwen_tokenizer()
    family = architecture.partition("For")[0].removesuffix("Model")
    torch.manual_seed(3)
    options = {**SHAPE, "vocab_size": len(tokenizer) + 13, "pad_token_id": tokenizer.pad_token_id, **config}
    if architecture.endswith("ForSequenceClassification"):
        options.setdefault("num_labels", 1)
    made = getattr(transformers, architecture)(getattr(transformers, f"{family}Config")(**options))
    directory.mkdir(parents=True)
    made.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    if name:
        change(directory / "config.json", _name_or_path=name)
    return directory


def build_nemotron(directory: Path) -> Path:
    """Llama with bidirectional attention, whose config.json names code of its own."""
    build_decoder(
        directory,
        "LlamaForSequenceClassification",
        tokenizer=llama_tokenizer(),
        name="nvidia/llama-nemotron-rerank-1b-v2",
    )
    change(
        directory / "config.json",
        architectures=["LlamaBidirectionalForSequenceClassification"],
        model_type="llama_bidirec",
        auto_map={"AutoModelForSequenceClassification": "llama_bidirectional_model.LlamaBidirectional"},
        pooling="avg",
        temperature=1.0,
    )
    (directory / "llama_bidirectional_model.py").write_text("raise SystemExit('it was run')")
    return directory


def change(path: Path, **different) -> None:
    """Set fields of a JSON file, which may not be there yet; None takes a field away."""
    contents = json.loads(path.read_text()) if path.exists() else {}
    contents |= different
    path.write_text(json.dumps({name: value for name, value in contents.items() if value is not None}))


QWEN3_PAIRS = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
    '{{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first'
    ' | default("Given a web search query, retrieve relevant passages that answer the query", true) }}\n'
    '<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}\n'
    '<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>\n'
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""A chat template for pairs, as sentence-transformers' conversions of Qwen3-Reranker have it."""

DOCUMENT_FIRST_PAIRS = (
    "Check whether a given document contains information helpful to answer the query.\n"
    '<Document> {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}\n'
    '<Query> {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }} ??'
)


def build_with_modules(directory: Path, architecture: str, chat_template: str, *, prompt: str = "", **config) -> Path:
    """A decoder as sentence-transformers saves it: modules.json, and a chat template for pairs."""
    from sentence_transformers import CrossEncoder

    raw = build_decoder(
        directory.with_name(f"{directory.name}-raw"),
        architecture,
        tokenizer=qwen_tokenizer(chat_template=chat_template),
        **config,
    )
    prompts = {"prompts": {"task": prompt}, "default_prompt_name": "task"} if prompt else {}
    CrossEncoder(str(raw), **prompts).save(str(directory))
    return directory


def build_ettin(directory: Path) -> Path:
    """ModernBERT with pooling and dense layers, as Ettin's rerankers are: a CrossEncoder that only its files tell."""
    import small_encoders
    import torch
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    encoder = small_encoders.build_modernbert(directory.with_name(f"{directory.name}-encoder"), "ModernBertModel")
    transformer = Transformer(str(encoder))
    modules = [
        transformer,
        Pooling(32, "cls"),
        Dense(32, 32, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(32),
        Dense(32, 1, activation_function=torch.nn.Identity(), module_output_name="scores"),
    ]
    return small_encoders.build_of_modules(directory, modules, "CrossEncoder")
