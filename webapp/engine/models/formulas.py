"""The vendors' formulas: which tokens their own code makes of a pair, written a second time.

`prepare` compares our scores with them, so that a mistake in a recipe is no score that is silently wrong. They use
no recipe of ours. Each function follows the code that the recipe's file names. One thing differs: the name of a special
token in a query or a document stays text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from webapp.engine.recipes import DOCUMENT, Recipe, known_recipes

Tokens = list[int]


@dataclass(frozen=True, slots=True)
class Formula:
    """What a vendor's code does with a pair."""

    tokens: Callable[[Any, str, str, str, int], Tokens]
    """Takes tokenizer, query, document, instruction (empty: none) and the longest input; returns the input."""
    score: Callable[[Any, Any, torch.Tensor], Any]
    """Takes transformers' model with its whole head, tokenizer and token ids, shape [1, length]; returns a logit."""


def _next_token(model: Any, ids: torch.Tensor) -> Any:
    """Return the logits of all words after the last token, shape [vocabulary]."""
    return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[0, -1]


def _label(model: Any, ids: torch.Tensor) -> Any:
    """Return the logit of the only label."""
    return model(input_ids=ids, use_cache=False).logits[0, 0]


def _has_label(model: Any) -> bool:
    return hasattr(model, "score")


def _difference(yes: str, no: str) -> Callable[[Any, Any, torch.Tensor], Any]:
    """Return the rule of two words; conversions to one label have the difference in their head."""

    def score(model: Any, tokenizer: Any, ids: torch.Tensor) -> Any:
        if _has_label(model):
            return _label(model, ids)
        logits = _next_token(model, ids)
        first, second = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (yes, no))
        return logits[first] - logits[second]

    return score


def _word(word: str) -> Callable[[Any, Any, torch.Tensor], Any]:
    """Return the rule of one word."""

    def score(model: Any, tokenizer: Any, ids: torch.Tensor) -> Any:
        if _has_label(model):
            return _label(model, ids)
        return _next_token(model, ids)[tokenizer(word, add_special_tokens=False)["input_ids"][0]]

    return score


def _first_word(model: Any, _tokenizer: Any, ids: torch.Tensor) -> Any:
    return _label(model, ids) if _has_label(model) else _next_token(model, ids)[0]


def _mean_of_all(model: Any, _tokenizer: Any, ids: torch.Tensor) -> Any:
    outputs = model.model(input_ids=ids, use_cache=False).last_hidden_state
    return model.score(outputs.mean(dim=1))[0, 0] / getattr(model.config, "temperature", 1.0)


def _words(tokenizer: Any, text: str) -> Tokens:
    """Return tokens of a template: names of special tokens count."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _text(tokenizer: Any, text: str) -> Tokens:
    """Return tokens of a caller's text: it has no special tokens."""
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def qwen3_reranker(tokenizer: Any, query: str, document: str, instruction: str, limit: int) -> Tokens:
    """Cut the end of the three texts together."""
    judge = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
        ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    before = _words(tokenizer, judge)
    after = _words(tokenizer, "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
    instruction = instruction or "Given a web search query, retrieve relevant passages that answer the query"
    texts = _text(tokenizer, f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}")
    return before + texts[: limit - len(before) - len(after)] + after


def mxbai_rerank_v2(tokenizer: Any, query: str, document: str, instruction: str, limit: int) -> Tokens:
    """Make tokens of each line by itself; cut the end of the document."""
    asked = f"instruction: {instruction}\nquery: {query}" if instruction else f"query: {query}"
    task = (
        "You are a search relevance expert who evaluates how well documents match search queries. For each"
        " query-document pair, carefully analyze the semantic relationship between them, then provide your binary"
        " relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
    )
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    before = _words(tokenizer, f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n")
    line = _words(tokenizer, "\n")
    after = line + _words(tokenizer, task) + _words(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
    start = before + _text(tokenizer, asked) + line
    return start + _text(tokenizer, f"document: {document}")[: limit - len(start) - len(after)] + after


def zerank(tokenizer: Any, query: str, document: str, instruction: str, limit: int) -> Tokens:
    """Put the query into the system's turn and the document into the user's, as the family's chat template has them."""
    system = query.strip()
    if instruction:
        system = f"<query>{system}</query>\n<instruction>{instruction}</instruction>"
    start = [
        *_words(tokenizer, "<|im_start|>"),
        *_text(tokenizer, f"system\n{system}"),
        *_words(tokenizer, "<|im_end|>\n<|im_start|>"),
    ]
    after = _words(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
    return start + _text(tokenizer, f"user\n{document.strip()}")[: limit - len(start) - len(after)] + after


def ctxl_rerank_v2(tokenizer: Any, query: str, document: str, instruction: str, limit: int) -> Tokens:
    """Make one text of all. Theirs cuts off its end, which is the question; here the document gives way."""
    asked = f"<Query> {query} {instruction} ??" if instruction else f"<Query> {query} ??"
    task = "Check whether a given document contains information helpful to answer the query.\n"
    whole = _text(tokenizer, f"{task}<Document> {document}\n{asked}")
    if len(whole) <= limit:
        return whole
    start, line, after = _text(tokenizer, task), _text(tokenizer, "\n"), _text(tokenizer, asked)
    cut = _text(tokenizer, f"<Document> {document}")[: limit - len(start) - len(line) - len(after)]
    return start + cut + line + after


def bge_reranker_v2_gemma(tokenizer: Any, query: str, document: str, _instruction: str, limit: int) -> Tokens:
    """Make tokens of each line by itself; cut the end of the document."""
    task = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a"
        " prediction of either 'Yes' or 'No'."
    )
    line = _words(tokenizer, "\n")
    start = [tokenizer.bos_token_id, *_text(tokenizer, f"A: {query}"), *line]
    after = line + _words(tokenizer, task)
    return start + _text(tokenizer, f"B: {document}")[: limit - len(start) - len(after)] + after


def llama_nemotron_rerank(tokenizer: Any, query: str, document: str, _instruction: str, limit: int) -> Tokens:
    """Make one text of all, after the token that begins each; cut its end."""
    texts = _text(tokenizer, f"question:{query} \n \n passage:{document}")
    return [tokenizer.bos_token_id, *texts][:limit]


FORMULAS = {
    "qwen3-reranker": Formula(qwen3_reranker, _difference("yes", "no")),
    "mxbai-rerank-v2": Formula(mxbai_rerank_v2, _difference("1", "0")),
    "zerank": Formula(zerank, _word("Yes")),
    "ctxl-rerank-v2": Formula(ctxl_rerank_v2, _first_word),
    "bge-reranker-v2-gemma": Formula(bge_reranker_v2_gemma, _word("Yes")),
    "llama-nemotron-rerank": Formula(llama_nemotron_rerank, _mean_of_all),
}
"""Name of a recipe -> its formula."""


def formula_of(recipe: Recipe) -> Formula:
    """Return what a recipe is compared with: its vendor's formula.

    An operator's own recipe has none. It is compared with the texts that it names around a pair, and the model's whole
    head: that shows whether we compute them rightly, not whether they are right.
    """
    if recipe in known_recipes() and recipe.name in FORMULAS:
        return FORMULAS[recipe.name]
    return Formula(_Own(recipe).tokens, _Own(recipe).score)


@dataclass(frozen=True, slots=True)
class _Own:
    """The formula of an operator's own recipe."""

    recipe: Recipe

    def tokens(self, tokenizer: Any, query: str, document: str, instruction: str, limit: int) -> Tokens:
        """Make tokens of each part by itself; cut the end of the document."""
        recipe = self.recipe
        prefix, middle, suffix = (
            [token for text in texts for token in _words(tokenizer, text)]
            for texts in (recipe.prefix, recipe.middle, recipe.suffix)
        )
        if recipe.special_tokens:
            mark = _words(tokenizer, "a")
            around = list(tokenizer("a")["input_ids"])
            prefix = around[: around.index(mark[0])] + prefix
            suffix = suffix + around[around.index(mark[-1]) + 1 :]
        asked = _text(tokenizer, recipe.of_query(query, instruction))
        after_document = _text(tokenizer, recipe.document.partition(DOCUMENT)[2])
        read = _text(tokenizer, recipe.of_document(document))
        room = limit - len(prefix) - len(middle) - len(suffix) - len(asked)
        if len(read) > room:
            read = read[: room - len(after_document)] + after_document
        first, second = (read, asked) if recipe.document_first else (asked, read)
        return prefix + first + middle + second + suffix

    def score(self, model: Any, tokenizer: Any, ids: torch.Tensor) -> Any:
        """Score by the whole head."""
        rule = self.recipe.score
        if rule.pooling == "mean":
            return _mean_of_all(model, tokenizer, ids)
        if _has_label(model):
            return _label(model, ids)
        logits = _next_token(model, ids)
        numbers = [
            _words(tokenizer, word)[0] if number is None else number
            for word, number in ((rule.yes, rule.yes_id), (rule.no, rule.no_id))
            if word or number is not None
        ]
        return logits[numbers[0]] - (logits[numbers[1]] if numbers[1:] else 0)
