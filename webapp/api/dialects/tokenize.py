"""Tokens of texts, as TEI, vLLM and llama.cpp have them.

Source: TEI 1.9.3 router/src/http/types.rs (`inputs` -> [[{id, text, special, start, stop}]]); vLLM 0.33.0
entrypoints/serve/tokenize (`prompt` -> {count, max_model_len, tokens}); llama.cpp server README (`content` ->
{tokens}). Not a rerank, so not in the registry.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webapp.api import json_body
from webapp.domain.errors import EmptyRequestError, InvalidRequestError
from webapp.domain.types import Token

MOST_CHARS = 1_000_000
"""Each token is an object in the reply: for more text they would take seconds to write, and hundreds of megabytes."""

MOST_TEXTS = 10_000

_PART = 10_000
"""Tokens that are written at a time; other threads run between."""


class TokenizeBody(msgspec.Struct, kw_only=True, frozen=True):
    """Body of POST /tokenize: one of `inputs`, `prompt` and `content`."""

    inputs: Annotated[str | list[str] | None, Meta(description="As TEI has it.")] = None
    prompt: Annotated[str | None, Meta(description="As vLLM has it.")] = None
    content: Annotated[str | None, Meta(description="As llama.cpp has it.")] = None
    add_special_tokens: Annotated[bool | None, Meta(description="Default true.")] = None
    add_special: Annotated[bool | None, Meta(description="llama.cpp's name for it; default false.")] = None
    return_token_strs: bool | None = None
    model: str | None = None

    @property
    def texts(self) -> list[str]:
        """The texts to tokenise."""
        given = next(value for value in (self.inputs, self.prompt, self.content) if value is not None)
        return [given] if isinstance(given, str) else given

    @property
    def special(self) -> bool:
        """Whether special tokens frame each text."""
        if self.inputs is None and self.prompt is None:
            return bool(self.add_special)
        return self.add_special_tokens is not False


class TokenReply(msgspec.Struct, gc=False):
    """One token; a special one has no position in the text."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class PromptTokens(msgspec.Struct):
    """vLLM's reply."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | UnsetType = UNSET


class ContentTokens(msgspec.Struct):
    """llama.cpp's reply."""

    tokens: list[int]


EXAMPLE: dict[str, Any] = {"inputs": "how do bees find home"}


def parse(raw: bytes) -> TokenizeBody:
    """Read one request.

    Raises:
        InvalidRequestError: names the field and what was wrong.
        PayloadTooLargeError: it holds too much text.
    """
    body = json_body.decode(raw, TokenizeBody, strict=False)
    if body.inputs is None and body.prompt is None and body.content is None:
        raise InvalidRequestError("is required", field="inputs")
    if not body.texts:
        raise EmptyRequestError("must not be empty", field="inputs")
    _check_size("texts", len(body.texts), MOST_TEXTS)
    _check_size("characters", sum(map(len, body.texts)), MOST_CHARS)
    return body


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise json_body.too_large(f"the request holds {size} {what}, {limit} are taken at a time", limit)


def dump(body: TokenizeBody, texts: Iterable[Iterator[Token]], max_length_tokens: int) -> tuple[int, bytes]:
    """Return how many tokens the texts have, and the reply in the form of the request.

    Args:
        body: the request.
        texts: tokens of each of its texts, made lazily: a million at once would delay all other requests.
        max_length_tokens: of a pair.
    """
    if body.inputs is not None:
        return _written(texts)
    ids, strings = [], []
    for token in next(iter(texts)):
        ids.append(token.id)
        if body.return_token_strs:
            strings.append(token.text)
    if body.prompt is None:
        return len(ids), msgspec.json.encode(ContentTokens(ids))
    words = strings if body.return_token_strs else UNSET
    return len(ids), msgspec.json.encode(PromptTokens(len(ids), max_length_tokens, ids, words))


def _written(texts: Iterable[Iterator[Token]]) -> tuple[int, bytes]:
    count, pieces = 0, [b"["]
    for number, tokens in enumerate(texts):
        pieces.append(b",[" if number else b"[")
        begun = False
        while part := [TokenReply(*token) for token in itertools.islice(tokens, _PART)]:
            pieces += [b"," if begun else b"", msgspec.json.encode(part)[1:-1]]
            begun = True
            count += len(part)
        pieces.append(b"]")
    return count, b"".join([*pieces, b"]"])
