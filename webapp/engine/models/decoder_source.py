"""A decoder in torch, by its recipe: only the row of the head that the score needs, and no padding before a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.cross_encoder.modules import LogitScore
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from webapp.domain.errors import SetupError
from webapp.engine.models.chat_template import recipe_of
from webapp.engine.models.formulas import formula_of
from webapp.engine.models.layout import Layout
from webapp.engine.models.source import (
    SourceModel,
    check_pads,
    check_tokenizer,
    cross_encoder,
    predict,
    shortest,
    tokens_of,
)
from webapp.engine.recipes import Recipe, Score

BIDIRECTIONAL_LLAMA = "llama_bidirec"
"""`model_type` of Llama with bidirectional attention, whose own class is code in its directory. transformers' Llama
computes the same where `is_causal` is false."""


class DecoderScore(torch.nn.Module):  # type: ignore[misc] # torch is not analysed
    """A decoder's layers, and a head of one row: token ids and mask in, logits out, shape [rows, 1]."""

    def __init__(self, layers: torch.nn.Module, head: torch.Tensor, *, causal: bool, mean: bool) -> None:
        """Take the parts of a model.

        Args:
            layers: transformers' model without a head.
            head: shape [hidden].
            causal: whether a token attends only to those before it.
            mean: whether the mean of all tokens' outputs is scored; else the last one's.
        """
        super().__init__()
        self.layers = layers
        self.head = torch.nn.Parameter(head, requires_grad=False)
        self.causal = causal
        self.mean = mean
        types = getattr(layers.config, "layer_types", None) or ()
        if others := {*types} - {"full_attention", "sliding_attention"}:
            raise SetupError(f"{type(layers).__name__} has layers of {', '.join(sorted(others))}; see RERANK_MODEL")
        local = "sliding_attention" in types or not types
        self.window = getattr(layers.config, "sliding_window", None) if local and causal else None
        self._by_layer = bool(types)
        self.input_names = ["input_ids", "attention_mask"]

    def forward(self, input_ids: Any, attention_mask: Any, _token_type_ids: Any = None) -> Any:
        """Return logits for tensors of shape [rows, length]; rows are padded at their end."""
        length = input_ids.shape[1]
        heeded = attention_mask[:, None, None, :].bool()
        if self.causal:
            places = torch.arange(length, device=input_ids.device)
            heeded = heeded & (places[None, :] <= places[:, None])
        else:
            heeded = heeded.expand(-1, -1, length, -1)
        masks: Any = heeded
        if self.window:
            near = places[:, None] - places[None, :] < self.window
            # A token sees itself, so that none of the padding sees nothing: some runtimes make NaN of that.
            itself = places[:, None] == places[None, :]
            local = heeded & near | itself
            masks = {"full_attention": heeded, "sliding_attention": local} if self._by_layer else local
        outputs = self.layers(input_ids=input_ids, attention_mask=masks, use_cache=False).last_hidden_state
        if self.mean:
            mask = attention_mask[..., None].to(outputs.dtype)
            pooled = (outputs * mask).sum(dim=1) / mask.sum(dim=1)
        else:
            last = attention_mask.sum(dim=1) - 1
            pooled = outputs.gather(1, last[:, None, None].expand(-1, 1, outputs.shape[2]))[:, 0]
        return pooled @ self.head[:, None]


def load_decoder(layout: Layout, device: str) -> tuple[Any, Any]:
    """Return transformers' model in float32 and its tokenizer.

    Args:
        layout: names the directory and the recipe.
        device: where the weights go.
    """
    # Without a word on it transformers asks at the terminal whether to run a model's code.
    where, options = str(layout.transformer), {"local_files_only": True, "trust_remote_code": False}
    if layout.config.get("model_type") == BIDIRECTIONAL_LLAMA:
        config = LlamaConfig.from_dict({**layout.config, "model_type": "llama", "is_causal": False, "num_labels": 1})
        cls: Any = LlamaForSequenceClassification
    else:
        config = AutoConfig.from_pretrained(where, **options)
        of_labels = layout.architecture.endswith("ForSequenceClassification")
        cls = AutoModelForSequenceClassification if of_labels else AutoModelForCausalLM
    model = cls.from_pretrained(where, config=config, dtype=torch.float32, **options).to(device).eval()
    return model, AutoTokenizer.from_pretrained(where, **options)


def scoring_module(model: Any, tokenizer: Any, recipe: Recipe) -> DecoderScore:
    """Return the layers of a decoder with the head that its recipe asks for.

    Args:
        model: transformers' model with its own head, of one label or of the whole vocabulary.
        tokenizer: its tokenizer.
        recipe: of its family.

    Raises:
        SetupError: a word of the recipe is no token of the model.
    """
    rule = recipe.score
    head = getattr(model, "score", None)
    if head is not None:
        row = head.weight[0] / float(getattr(model.config, "temperature", None) or 1.0)
    else:
        rows = model.get_output_embeddings().weight
        row = _row_of(rows, tokenizer, rule.yes, rule.yes_id)
        if rule.no or rule.no_id is not None:
            row = row - _row_of(rows, tokenizer, rule.no, rule.no_id)
    layers = model.get_decoder() if head is None else model.base_model
    return DecoderScore(layers, row.detach().clone(), causal=rule.attention == "causal", mean=rule.pooling == "mean")


def _row_of(rows: torch.Tensor, tokenizer: Any, word: str, number: int | None) -> torch.Tensor:
    """Return a token's row of a head.

    Args:
        rows: the head, shape [vocabulary, hidden].
        tokenizer: the model's.
        word: the token's text; vendors look up the token that it begins with.
        number: the token's number, in place of its text.

    Raises:
        SetupError: the model has no such token.
    """
    if number is not None:
        if number >= len(rows):
            raise SetupError(f"the model has no token {number}, which the recipe scores by; see RERANK_RECIPE")
        return rows[number]
    ids = tokenizer.encode(word, add_special_tokens=False)
    if not ids or ids[0] == tokenizer.unk_token_id or tokenizer.decode(ids[:1]).strip() != word:
        raise SetupError(
            f"the tokenizer has no token {json.dumps(word)}, which the recipe scores by; see RERANK_RECIPE"
        )
    return rows[ids[0]]


class DecoderModel(SourceModel):
    """A decoder with its recipe, or with the chat template that sentence-transformers' files name."""

    recipe: Recipe

    def __init__(self, layout: Layout, device: str = "cpu") -> None:
        """Load a decoder in float32.

        Raises:
            SetupError: something of it is missing, or its recipe does not fit.
        """
        self.layout = layout
        self.kind = layout.kind
        self._known = {}
        self._by_name: Any = None
        """sentence-transformers' CrossEncoder, where its files name one."""
        if layout.recipe is not None:
            self._loaded, self.tokenizer = load_decoder(layout, device)
            self.recipe = layout.recipe
        else:
            self._by_name = cross_encoder(layout, device)
            self._loaded, self.tokenizer = self._by_name.transformers_model, self._by_name.tokenizer
            check_pads(layout, self.tokenizer)
            try:
                self.recipe = recipe_of(self._by_name, _rule_of(self._by_name))
            except SetupError as error:
                raise SetupError(f"{layout.directory}: {error}; name another RERANK_MODEL") from error
        if getattr(self._loaded, "score", None) is not None and self._loaded.config.num_labels != 1:
            raise SetupError(f"{layout.directory} has {self._loaded.config.num_labels} labels; a reranker has one")
        check_tokenizer(layout, self.tokenizer)
        self.model = scoring_module(self._loaded, self.tokenizer, self.recipe)
        self._limit_tokens = 0

    @property
    def max_length_tokens(self) -> int:
        """Longest input, the template counted."""
        return shortest(
            self._limit_tokens,
            self.recipe.max_length_tokens,
            getattr(self._loaded.config, "max_position_embeddings", None),
            self.tokenizer.model_max_length,
        )

    def cut_at(self, limit_tokens: int) -> None:
        """Cut texts at a shorter limit than the model's own."""
        self._limit_tokens = limit_tokens
        if self._by_name is not None:
            self._by_name.max_seq_length = self.max_length_tokens

    @property
    def transformer(self) -> Any:
        """Transformers' own model."""
        return self._loaded

    def module(self) -> DecoderScore:
        """Return the bare computation: token ids and mask in, logits out."""
        return cast("DecoderScore", self.model)

    def tokens(self, query: str, document: str, instruction: str = "") -> list[list[int]]:
        """Return the token ids that the original reads, or its vendor's formula; nothing is computed."""
        if self._by_name is not None:
            pairs = [(query, document)]
            return [tokens_of(self._loaded, lambda: predict(self._by_name, pairs, instruction or None))]
        made = formula_of(self.recipe).tokens
        return [made(self.tokenizer, query, document, instruction, self.max_length_tokens)]

    def _move(self, device: torch.device) -> None:
        self._loaded.to(device)
        self.model.to(device)
        if self._by_name is not None:
            self._by_name.to(device)

    def _compute(self, pairs: Sequence[tuple[str, str]], instruction: str = "") -> NDArray[np.float32]:
        if self._by_name is not None:
            return predict(self._by_name, pairs, instruction or None)
        formula = formula_of(self.recipe)
        scores = []
        with torch.inference_mode():
            for query, document in pairs:
                ids = formula.tokens(self.tokenizer, query, document, instruction, self.max_length_tokens)
                read = torch.tensor([ids], device=self._loaded.device)
                scores.append(float(formula.score(self._loaded, self.tokenizer, read)))
        return np.array(scores, np.float32)


def _rule_of(model: Any) -> Score:
    """Return how a CrossEncoder of sentence-transformers makes its score of a decoder's output."""
    rules = [module for module in model if isinstance(module, LogitScore)]
    if not rules:
        return Score()
    return Score(yes_id=rules[0].true_token_id, no_id=rules[0].false_token_id)
