"""Texts out of whatever stands for a document or a query.

Sources: Cohere v1 (objects with `text`, `rank_fields`), vLLM ({content: [parts]}), Pinecone and Mixedbread
(`rank_fields`), Jina ({text}). What has no text of its own is scored as its JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from webapp.errors import EmptyRequestError, InvalidRequestError

MOST_DOCUMENTS = 1_000_000
"""No setting allows more, so no time is spent on them."""

_NULL = Raw(b"null")

Text = str | dict[str, Raw]
"""A text, or an object whose fields stay as they were written: what is not scored is only passed through."""


def as_list(value: Text | list[Text]) -> list[Text]:
    """One document, or vLLM's {content: [part, ...]} whose parts are documents, as a list."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and _is(value.get("content", _NULL), "["):
        parts = msgspec.json.decode(value["content"], type=list[Raw])
        return [msgspec.json.decode(part, type=Text) if _is(part, '"', "{") else {"text": part} for part in parts]
    return [value]


def texts_of(documents: list[Text], rank_fields: Sequence[str] | None = None) -> list[str]:
    """The text of each document that is scored."""
    if len(documents) > MOST_DOCUMENTS:
        raise InvalidRequestError(f"holds {len(documents)} documents, the limit is {MOST_DOCUMENTS}", field="documents")
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


def _text_of(document: dict[str, Raw], rank_fields: Sequence[str] | None) -> str:
    if rank_fields:
        parts = [_as_text(value) for name in rank_fields if not _is(value := document.get(name, _NULL), "n")]
        if parts:
            return "\n".join(parts)
    for name in ("text", "content"):
        value = document.get(name, _NULL)
        if _is(value, "["):
            entries = msgspec.json.decode(value, type=list[Raw])
            parts = [part for entry in entries if (part := _part(entry)) is not None]
            if entries and not parts:
                raise InvalidRequestError(f"{name} holds no text; this model reads text only", field="documents")
            return "\n".join(parts)
        if not _is(value, "n"):
            return _as_text(value)
    return _as_text(Raw(msgspec.json.encode(document)))


def _part(entry: Raw) -> str | None:
    """The text of a content part; None for an image."""
    if _is(entry, "{"):
        entry = msgspec.json.decode(entry, type=dict[str, Raw]).get("text", _NULL)
    return _as_text(entry) if _is(entry, '"') else None


def _is(value: Raw, *begins: str) -> bool:
    """Whether a JSON value begins with one of these characters, which tells its type."""
    return chr(memoryview(value)[0]) in begins


def _as_text(value: Raw) -> str:
    """A string, or else the value's JSON without blanks."""
    if _is(value, '"'):
        return msgspec.json.decode(value, type=str)
    return msgspec.json.format(bytes(value), indent=-1).decode()
