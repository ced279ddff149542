"""Texts out of whatever stands for a document or a query.

Sources: Cohere v1 (objects with `text`, `rank_fields`), vLLM ({content: [parts]}), Pinecone and Mixedbread
(`rank_fields`), Jina ({text}). What has no text of its own is scored as its JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from webapp.api.dialects.typos import misnamed_key
from webapp.errors import EmptyRequestError, InvalidRequestError

Text = str | dict[str, Any]

_MOST_NAMES = 5
_MOST_NAME_CHARS = 40


def as_list(value: Text | list[Text], field: str = "documents") -> list[Text]:
    """One document, or vLLM's {content: [part, ...]} whose parts are documents, as a list."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and isinstance(value.get("content"), list):
        return _parts(value["content"], field)
    return [value]


def texts_of(documents: list[Text], rank_fields: Sequence[str] | None = None, *, field: str = "documents") -> list[str]:
    """The text of each document that is scored.

    Args:
        documents: texts, or objects that hold them.
        rank_fields: fields of an object that are scored instead.
        field: what the documents are called in the request.

    Raises:
        InvalidRequestError: an object's `content` is no text, or its name is mistyped.
    """
    if set(map(type, documents)) <= {str}:  # most lists, and ten thousand are soon looked at
        return cast("list[str]", documents)
    _check_names(documents, rank_fields or (), field)
    return [
        text if isinstance(text, str) else _text_of(text, rank_fields, field, place)
        for place, text in enumerate(documents)
    ]


def ignored_rank_fields(documents: list[Text], rank_fields: Sequence[str] | None) -> tuple[str, ...]:
    """A warning where no document has some of the fields; a bare text is as good as one in `text`."""
    missing = set(rank_fields or ())
    for document in documents:
        if not missing:
            return ()
        if isinstance(document, str):
            missing.discard("text")
        else:
            missing -= {name for name in missing & document.keys() if document[name] is not None}
    if not missing:
        return ()
    names = ", ".join(repr(name[:_MOST_NAME_CHARS]) for name in sorted(missing)[:_MOST_NAMES])
    return (f"rank_fields was ignored where no document has the field: {names}",)


def query_of(query: Text, *, blank: bool = False) -> str:
    """The query's text.

    Args:
        query: a text, or an object that holds one.
        blank: whether a query without words is fine.

    Raises:
        EmptyRequestError: it is blank.
    """
    text = query if isinstance(query, str) else _query_in(query)
    if not blank and not text.strip():
        raise EmptyRequestError("must not be blank", field="query")
    return text


def _query_in(query: dict[str, Any]) -> str:
    _check_names([query], (), "query")
    return _text_of(query, None, "query")


def _check_names(documents: Sequence[Text], rank_fields: Sequence[str], field: str) -> None:
    """Refuse objects whose text would not be found for a typing error, and whose JSON would be scored instead."""
    named = {"text", "content", *rank_fields}
    if any(isinstance(document, dict) and not named.isdisjoint(document) for document in documents):
        return
    if wrong := misnamed_key(documents):
        place, key, meant = wrong
        raise InvalidRequestError(
            f"has neither text nor content; did you mean {meant!r} by {key!r}?",
            field=_at(field, None if field == "query" else place),
        )


def _parts(content: Any, at: str) -> list[Text]:
    """A list of parts, as vLLM has it: texts, and objects of which some hold texts."""
    if isinstance(content, list) and all(isinstance(part, str | dict) for part in content):
        return content
    raise InvalidRequestError("must be a string, null or a list of parts", field=f"{at}.content")


def _text_of(document: dict[str, Any], rank_fields: Sequence[str] | None, field: str, place: int | None = None) -> str:
    if rank_fields:
        parts = [_as_text(document[name]) for name in rank_fields if document.get(name) is not None]
        if parts:
            return "\n".join(parts)
    for name in ("text", "content"):
        value = document.get(name)
        if name == "content" and not isinstance(value, str | None):
            value = _parts(value, _at(field, place))
        if isinstance(value, list):
            parts = [part for entry in value if (part := _part(entry)) is not None]
            if value and not parts:
                raise InvalidRequestError(f"{name} holds no text; this model reads text only", field=_at(field, place))
            return "\n".join(parts)
        if value is not None:
            return _as_text(value)
    return _as_text(document)


def _at(field: str, place: int | None) -> str:
    return field if place is None else f"{field}[{place}]"


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
