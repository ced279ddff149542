"""The original model in torch, as sentence-transformers loads it: prepare converts it, the torch engine serves it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers import PreTrainedModel

from webapp.domain.errors import SetupError
from webapp.domain.types import ScoreScale
from webapp.engine.artifact import Tables

LONGEST_MAX_LENGTH_TOKENS = 100_000
"""Tokenizers without a limit of their own report 10^30."""

POSITION_TABLES = frozenset({"position_embeddings", "wpe", "embed_positions"})
"""What transformers calls tables of learned positions in encoders, in GPT-2, and in models of BART's family."""


def kind_of(directory: Path) -> Literal["cross-encoder", "embedding"]:
    """Return what kind of model a directory holds, by its own configuration.

    Raises:
        SetupError: it is neither.
    """
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise SetupError(
            f"{directory} holds no readable config.json; RERANK_MODEL must name a CrossEncoder or SentenceTransformer"
        ) from error
    architecture = (config.get("architectures") or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "cross-encoder"
    if (directory / "modules.json").is_file():
        return "embedding"
    raise SetupError(
        f"{directory} is {architecture or 'nameless'}, not a CrossEncoder or SentenceTransformer; see RERANK_MODEL"
    )


class SourceModel:
    """A CrossEncoder or a SentenceTransformer on one device."""

    def __init__(self, directory: Path, device: str = "cpu") -> None:
        self.kind = kind_of(directory)
        self._known: dict[tuple[str, str], np.float32] = {}
        """Scores that were computed."""
        # float32 whatever the file holds: it is the reference that every other precision is compared with.
        options: dict[str, Any] = {"device": device, "local_files_only": True, "model_kwargs": {"dtype": torch.float32}}
        self.model = (
            CrossEncoder(str(directory), **options)
            if self.kind == "cross-encoder"
            else SentenceTransformer(str(directory), **options)
        )
        self.model.eval()
        if self.kind == "cross-encoder" and self.model.num_labels != 1:
            raise SetupError(f"{directory} has {self.model.num_labels} labels; a reranker has one")
        self.tokenizer = self.model.tokenizer
        if not getattr(self.tokenizer, "is_fast", False):
            raise SetupError(f"{directory} has no fast tokenizer (tokenizer.json)")
        # sentence-transformers must cut there, too: a tokenizer may claim more than the model has positions for.
        self.model.max_seq_length = self.max_length_tokens

    @property
    def max_length_tokens(self) -> int:
        """Longest input, special tokens counted."""
        limits = [self.model.max_seq_length, self.tokenizer.model_max_length, positions_of(self.model)]
        # None, 0 and -1 stand for no limit.
        return int(min(limit for limit in [*limits, LONGEST_MAX_LENGTH_TOKENS] if limit and limit > 0))

    @property
    def tables(self) -> Tables:
        """Sizes of its embedding tables."""
        modules = dict(self.model.named_modules())
        words = [_input_embeddings(each) for each in modules.values() if isinstance(each, PreTrainedModel)]
        types = [table for name, table in modules.items() if name.rpartition(".")[2] == "token_type_embeddings"]
        return Tables(_fewest_rows(words), positions_of(self.model), _fewest_rows(types))

    @property
    def prompts(self) -> tuple[str, str]:
        """Prompts that a SentenceTransformer puts before a query and before a document."""
        if self.kind == "cross-encoder":
            return "", ""
        named = self.model.prompts
        fallback = named.get(self.model.default_prompt_name or "", "")
        document = named.get("document") or named.get("passage") or named.get("corpus") or fallback
        return named.get("query") or fallback, document

    @property
    def score_scale(self) -> ScoreScale:
        """Scale of its scores: logits, or similarities by the function that a SentenceTransformer names."""
        return "sigmoid" if self.kind == "cross-encoder" else self.model.similarity_fn_name

    @property
    def unit_vectors(self) -> bool:
        """Whether a bi-encoder compares vectors of length 1: by cosine, or because its last module makes them so."""
        return self.score_scale == "cosine" or (
            self.kind == "embedding" and isinstance(self.model[-1], Normalize) and self.model.truncate_dim is None
        )

    @property
    def reads_types(self) -> bool:
        """Whether it takes token types; without, all tokens have type 0."""
        return "token_type_ids" in self.tokenizer.model_input_names

    def module(self) -> FeatureModule:
        """Return the bare computation: token ids in, the output that scores are made of out."""
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self.reads_types else [])]
        return FeatureModule(self.model, names, "scores" if self.kind == "cross-encoder" else "sentence_embedding")

    def reference(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        """Return sentence-transformers' own scores: logits, or similarities of a bi-encoder; shape [pairs].

        Each pair is computed once, however many candidates are compared with it.
        """
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if new:
            self._known.update(zip(new, self._compute(new), strict=True))
        return np.array([self._known[pair] for pair in pairs], np.float32)

    def _compute(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        if self.kind == "cross-encoder":
            logits = self.model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False)
            return np.asarray(logits, np.float32).reshape(len(pairs))
        queries, documents = zip(*pairs, strict=True)
        options = {"convert_to_tensor": True, "show_progress_bar": False}
        left = _encode_unique(partial(self.model.encode_query, **options), queries)
        right = _encode_unique(partial(self.model.encode_document, **options), documents)
        return np.asarray(self.model.similarity_pairwise(left, right).cpu().numpy(), np.float32)


def positions_of(model: Any) -> int | None:
    """Return how many tokens a model's position tables hold; None where positions are relative or rotary."""
    held = []
    for name, table in model.named_modules():
        if name.rpartition(".")[2] in POSITION_TABLES and getattr(table, "weight", None) is not None:
            padding = getattr(table, "padding_idx", None)
            # RoBERTa's family counts from one past the padding's row, BART's from `offset`.
            first = getattr(table, "offset", 0) if padding is None else padding + 1
            held.append(len(table.weight) - first)
    return min(held, default=None)


def _input_embeddings(model: PreTrainedModel) -> Any:
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        return None


def _fewest_rows(tables: Sequence[Any]) -> int | None:
    weights = [getattr(table, "weight", None) for table in tables]
    return min((len(weight) for weight in weights if weight is not None), default=None)


def _encode_unique(encode: Callable[[list[str]], Any], texts: Sequence[str]) -> Any:
    """Return vectors, shape [texts, width]; equal texts are computed once."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return encode(list(places))[[places[text] for text in texts]]


class FeatureModule(torch.nn.Module):  # type: ignore[misc] # torch is not analysed: it takes minutes
    """A module of tensors around sentence-transformers' modules, which take and give dictionaries."""

    def __init__(self, model: torch.nn.Module, input_names: list[str], output_name: str) -> None:
        super().__init__()
        self.model = model
        self.input_names = input_names
        self.output_name = output_name

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        """Return [rows, 1] logits or [rows, width] vectors for tensors of shape [rows, length]."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        output = self.model({name: given[name] for name in self.input_names})[self.output_name]
        if output.ndim == 1:
            return output.unsqueeze(-1)
        width = getattr(self.model, "truncate_dim", None)  # of a SentenceTransformer; None: all
        return output if width is None else output[:, :width]
