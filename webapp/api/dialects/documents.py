"""Texts out of whatever stands for a document or a query.

Sources: Cohere v1 (objects with `text`, `rank_fields`), vLLM ({content: [parts]}), Pinecone and Mixedbread
(`rank_fields`), Jina ({text}). What has no text of its own is scored as its JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from webapp.errors import EmptyRequestError, InvalidRequestError

Text = str | dict[str, Any]


def as_list(value: Text | list[Text]) -> list[Text]:
    """One document, or vLLM's {content: [part, ...]} whose parts are documents, as a list."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), list):
        return [part if isinstance(part, str | dict) else {"text": part} for part in value["content"]]
    return [value]


def texts_of(documents: list[Text], rank_fields: Sequence[str] | None = None) -> list[str]:
    """The text of each document that is scored."""
    return [text if isinstance(text, str) else _text_of(text, rank_fields) for text in documents]


def query_of(query: Text, *, blank: bool = False) -> str:
    """The query's text.

    Args:
        query: a text, or an object that holds one.
        blank: whether a query without words is fine.

    Raises:
        EmptyRequestError: it is blank.
    """
    text = query if isinstance(query, str) else _text_of(query, None)
    if not blank and not text.strip():
        raise EmptyRequestError("must not be blank", field="query")
    return text


def _text_of(document: dict[str, Any], rank_fields: Sequence[str] | None) -> str:
    if rank_fields:
        parts = [_as_text(document[name]) for name in rank_fields if document.get(name) is not None]
        if parts:
            return "\n".join(parts)
    for name in ("text", "content"):
        value = document.get(name)
        if isinstance(value, list):
            parts = [part for entry in value if (part := _part(entry)) is not None]
            if value and not parts:
                raise InvalidRequestError(f"{name} holds no text; this model reads text only", field="documents")
            return "\n".join(parts)
        if value is not None:
            return _as_text(value)
    return _as_text(document)


def _part(entry: Any) -> str | None:
    """The text of a content part; None for an image."""
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        text: str = entry["text"]
        return text
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
