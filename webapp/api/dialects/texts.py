"""Texts out of whatever stands for a document or a query.

Sources: Cohere v1 (objects with `text`, `rank_fields`), vLLM ({content: [parts]}), Pinecone and Mixedbread
(`rank_fields`), Jina ({text}). What has no text of its own is scored as its JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec
from msgspec import Raw

from webapp.api.dialects.typos import misnamed_key
from webapp.domain.errors import EmptyRequestError, InvalidRequestError

MOST_DOCUMENTS = 1_000_000
"""No setting allows more, so no time is spent on them."""

_NULL = Raw(b"null")

Text = str | dict[str, Raw]
"""A text, or an object whose fields stay as they were written: what is not scored is only passed through."""

_MOST_NAMES = 5
_MOST_NAME_CHARS = 40


def as_list(value: Text | list[Text], field: str = "documents") -> list[Text]:
    """One document, or vLLM's {content: [part, ...]} whose parts are documents, as a list."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and _is(content := value.get("content", _NULL), "["):
        return [msgspec.json.decode(part, type=Text) for part in _parts(content, field)]
    return [value]


def texts_of(documents: list[Text], rank_fields: Sequence[str] | None = None, *, field: str = "documents") -> list[str]:
    """The text of each document that is scored.

    Args:
        documents: texts, or objects that hold them.
        rank_fields: fields of an object that are scored instead.
        field: what the documents are called in the request.

    Raises:
        InvalidRequestError: an object's `content` is no text, its name is mistyped, or there are too many documents.
    """
    if len(documents) > MOST_DOCUMENTS:
        raise InvalidRequestError(f"holds {len(documents)} documents, the limit is {MOST_DOCUMENTS}", field=field)
    if set(map(type, documents)) <= {str}:  # most lists, and ten thousand are soon looked at
        return cast("list[str]", documents)
    _check_names(documents, rank_fields or (), field)
    return [
        text if isinstance(text, str) else _text_of(text, rank_fields, field, place)
        for place, text in enumerate(documents)
    ]


def as_sent(documents: list[Text]) -> list[str] | list[str | Raw]:
    """Return the documents as a reply repeats them: an object is one value, whatever it holds."""
    if set(map(type, documents)) <= {str}:
        return cast("list[str]", documents)
    return [document if isinstance(document, str) else Raw(msgspec.json.encode(document)) for document in documents]


def ignored_rank_fields(documents: list[Text], rank_fields: Sequence[str] | None) -> tuple[str, ...]:
    """A warning where no document has some of the fields; a bare text is as good as one in `text`."""
    missing = set(rank_fields or ())
    for document in documents:
        if not missing:
            return ()
        if isinstance(document, str):
            missing.discard("text")
        else:
            missing -= {name for name in missing & document.keys() if not _is(document[name], "n")}
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


def _query_in(query: dict[str, Raw]) -> str:
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
            f"has neither text nor content; did you mean {meant!r} instead of {key!r}?",
            field=_at(field, None if field == "query" else place),
        )


def _parts(content: Raw, at: str) -> list[Raw]:
    """A list of parts, as vLLM has it: texts, and objects of which some hold texts."""
    if _is(content, "["):
        parts = msgspec.json.decode(content, type=list[Raw])
        if all(_is(part, '"', "{") for part in parts):
            return parts
    raise InvalidRequestError("must be a string, null or a list of parts", field=f"{at}.content")


def _text_of(document: dict[str, Raw], rank_fields: Sequence[str] | None, field: str, place: int | None = None) -> str:
    if rank_fields:
        parts = [_as_text(value) for name in rank_fields if not _is(value := document.get(name, _NULL), "n")]
        if parts:
            return "\n".join(parts)
    for name in ("text", "content"):
        value = document.get(name, _NULL)
        if name == "content" and not _is(value, '"', "n"):
            _parts(value, _at(field, place))
        if _is(value, "["):
            entries = msgspec.json.decode(value, type=list[Raw])
            parts = [part for entry in entries if (part := _part(entry)) is not None]
            if entries and not parts:
                raise InvalidRequestError(f"{name} holds no text; this model reads text only", field=_at(field, place))
            return "\n".join(parts)
        if not _is(value, "n"):
            return _as_text(value)
    return _as_text(Raw(msgspec.json.encode(document)))


def _at(field: str, place: int | None) -> str:
    return field if place is None else f"{field}[{place}]"


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
