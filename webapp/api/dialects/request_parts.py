"""Parts of requests that several formats share: options under the names that clients know, and texts.

Sources of the options: Cohere v1 and v2 (`max_chunks_per_doc`, `max_tokens_per_doc`, `priority`), TEI 1.9.3
router/src/http/types.rs (`truncate`, `truncation_direction`, `raw_scores`), vLLM 0.33.0 entrypoints/pooling/scoring
(`truncate_prompt_tokens`, `truncation_side`, `max_tokens_per_query`, `use_activation`, `instruction`,
`chat_template_kwargs`), SGLang and DashScope (`instruct`), Voyage (`truncation`), NIM and Pinecone (`truncate` "NONE",
"END", "START"), SiliconFlow (`overlap_tokens`). null is as good as absent everywhere.

Sources of the texts: Cohere v1 (objects with `text`, `rank_fields`), vLLM ({content: [parts]}), Pinecone and Mixedbread
(`rank_fields`), Jina ({text}). An object without a text of its own is scored as its JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import Meta, Raw

from webapp.api.dialects.typos import misnamed_key
from webapp.domain.errors import EmptyRequestError, InvalidRequestError
from webapp.domain.types import Kept, RerankRequest, Truncation

T = TypeVar("T")

LOWEST_PRIORITY = 1000
"""Priorities beyond plus or minus this count as this."""

MOST_WINDOWS = 10_000

MOST_DOCUMENTS = 1_000_000
"""No setting allows more, so more are refused before their texts are read."""

_MOST_NAMES = 5
_MOST_NAME_CHARS = 40

_NULL = Raw(b"null")

Truncate = bool | str | None

_CUTS: Mapping[Truncate, tuple[Kept | None, bool]] = {
    **dict.fromkeys((None, True, "true", "1", ""), (None, False)),
    **dict.fromkeys(("end", "right"), ("start", False)),
    **dict.fromkeys(("start", "left"), ("end", False)),
    **dict.fromkeys((False, "false", "0", "none"), (None, True)),
}
"""Value of `truncate` -> which part of a text to keep (None: as the model does), and whether to refuse to cut it."""

_SIDES: Mapping[Truncate, Kept | None] = {"right": "start", "": None, "left": "end"}

Count = Annotated[int, Meta(ge=0)]

CountOrAll = Annotated[int, Meta(ge=-1)]
"""-1 is all, as older releases of vLLM had it."""

Text = str | dict[str, Raw]
"""A text, or an object whose fields are kept as they were written, because they are only echoed."""


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """Options beside the texts. Every field may be absent or null; unknown fields are ignored."""

    model: Annotated[str | None, Meta(description="Any name is taken, unless RERANK_STRICT_MODEL is set.")] = None
    max_tokens_per_doc: Annotated[
        Count | None, Meta(description="Tokens of each document that count; 0 or null: no limit but the model's.")
    ] = None
    max_tokens_per_query: Annotated[Count | None, Meta(description="Tokens of the query that count.")] = None
    max_chunks_per_doc: Annotated[
        Count | None,
        Meta(description="Score a long document in up to this many overlapping windows; the best one counts."),
    ] = None
    overlap_tokens: Annotated[Count | None, Meta(description="Tokens that neighbouring windows share.")] = None
    truncate: Annotated[
        bool | str | None,
        Meta(description='false or "NONE" refuses pairs longer than the model reads; "END", "START": what is cut off.'),
    ] = None
    truncation: Annotated[bool | str | None, Meta(description="As `truncate`.")] = None
    truncate_prompt_tokens: Annotated[
        Annotated[int, Meta(ge=-1)] | None, Meta(description="Longest pair in tokens; -1: the model's limit.")
    ] = None
    truncation_side: Annotated[
        str | None, Meta(description='"right" or "left": where to cut; default: where the model does.')
    ] = None
    truncation_direction: Annotated[str | None, Meta(description="As `truncation_side`.")] = None
    raw_scores: Annotated[bool | None, Meta(description="The model's numbers rather than scores in 0..1.")] = None
    use_activation: Annotated[bool | None, Meta(description="false: as `raw_scores`.")] = None
    priority: Annotated[int | None, Meta(description="Lower goes first.")] = None
    instruction: Annotated[
        str | None,
        Meta(description="What makes a document relevant, in words, for a model that takes it; blank: its default."),
    ] = None
    instruct: Annotated[str | None, Meta(description="As `instruction`.")] = None
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, Meta(description="Its `instruction` or `instruct` is as the field; others are ignored.")
    ] = None


def ranking_request(
    options: Options,
    query: Text,
    documents: Text | list[Text],
    *,
    field: str = "documents",
    top_n: int | None = None,
    echo: bool = False,
    add_text: bool = False,
) -> RerankRequest:
    """Return the request of a format that ranks documents, each a text or an object.

    Args:
        options: the body; `rank_fields`, if it has them, are scored in place of an object's text.
        query: the question.
        documents: the candidates.
        field: the name of `documents` in the format.
        top_n: how many to return; 0, -1 and None mean all.
        echo: whether the reply repeats the documents.
        add_text: whether an echoed object gets the `text` that was scored, if it has none.

    Raises:
        InvalidRequestError: a text or an option is wrong; the error names it.
    """
    listed, rank_fields = as_list(documents, field), getattr(options, "rank_fields", None)
    texts = texts_of(listed, rank_fields, field=field)
    originals: list[str | Raw] = []
    if echo:  # an object is one value, whatever it holds
        originals = [
            each if isinstance(each, str) else Raw(msgspec.json.encode(_with_text(each, text) if add_text else each))
            for each, text in zip(listed, texts, strict=True)
        ]
    return to_request(
        options,
        query_of(query),
        texts,
        originals=originals,
        top_n=top_n,
        return_documents=echo,
        warnings=_ignored_rank_fields(listed, rank_fields),
    )


def to_request(
    options: Options,
    query: str,
    documents: list[str],
    *,
    originals: Sequence[Any] = (),
    top_n: int | None = None,
    return_documents: bool | None = False,
    warnings: tuple[str, ...] = (),
) -> RerankRequest:
    """Return the request for texts that were read already.

    Args:
        options: the body.
        query: the question.
        documents: the texts to score.
        originals: see `RerankRequest`.
        top_n: 0, -1 and None mean all.
        return_documents: whether to echo.
        warnings: what else has no effect.

    Raises:
        InvalidRequestError: there is no document, or an option is wrong; the error names it.
    """
    if not documents:
        raise EmptyRequestError("must hold at least one document", field="documents")
    return RerankRequest(
        query=query,
        documents=documents,
        originals=originals,
        top_n=top_n if top_n and top_n > 0 else None,
        raw_scores=bool(options.raw_scores) or options.use_activation is False,
        return_documents=bool(return_documents),
        model=options.model or None,
        truncation=truncation_of(options),
        priority=max(-LOWEST_PRIORITY, min(LOWEST_PRIORITY, options.priority or 0)),
        instruction=instruction_of(options),
        warnings=warnings + _ignored_arguments(options),
    )


_INSTRUCTIONS = ("instruction", "instruct")

SYNONYMS = (
    frozenset({"truncate", "truncation", "truncation_side", "truncation_direction"}),
    frozenset({"raw_scores", "use_activation"}),
)
"""Options that say one thing together, instructions left out."""


def instruction_of(options: Options) -> str | None:
    """Return the first instruction that is not blank, of the fields or of the template's arguments.

    Raises:
        InvalidRequestError: one of the template's arguments is no text.
    """
    arguments = options.chat_template_kwargs or {}
    for name in _INSTRUCTIONS:
        if not isinstance(arguments.get(name), str | None):
            raise InvalidRequestError("must be a string or null", field=f"chat_template_kwargs.{name}")
    given = (options.instruction, options.instruct, *map(arguments.get, _INSTRUCTIONS))
    return next((each for each in given if each and each.strip()), None)


def _ignored_arguments(options: Options) -> tuple[str, ...]:
    """Return a warning if arguments of vLLM's chat template have no effect: our templates are the model's own."""
    unknown = (options.chat_template_kwargs or {}).keys() - {*_INSTRUCTIONS}
    if not unknown:
        return ()
    return (f"chat_template_kwargs was ignored but for {' and '.join(_INSTRUCTIONS)}: {_names(unknown)}",)


def _names(fields: Iterable[str]) -> str:
    """Return the first of these names, in order, to stand in a warning."""
    return ", ".join(repr(name[:_MOST_NAME_CHARS]) for name in sorted(fields)[:_MOST_NAMES])


_truncation_options = attrgetter(
    *("max_tokens_per_doc", "max_tokens_per_query", "max_chunks_per_doc", "truncate", "truncation"),
    *("truncate_prompt_tokens", "truncation_side", "truncation_direction"),
)


def truncation_of(options: Options) -> Truncation | None:
    """Return what options say of long texts; None: nothing that differs from the default.

    Raises:
        InvalidRequestError: an option is wrong; the error names it.
    """
    if set(_truncation_options(options)) == {None}:
        return None  # soon decided, for a call may hold ten thousand pairs
    keep, strict = _CUTS[None]
    for name in ("truncate", "truncation"):
        if (value := getattr(options, name)) is not None:
            keep, strict = _meant(name, value, _CUTS, "a boolean, or one of NONE, END, START")
    for name in ("truncation_side", "truncation_direction"):
        if (side := getattr(options, name)) is not None:
            keep = _meant(name, side, _SIDES, "left or right")
    pair = options.truncate_prompt_tokens
    truncation = Truncation(
        max_query_tokens=options.max_tokens_per_query or None,
        max_document_tokens=options.max_tokens_per_doc or None,
        max_pair_tokens=pair if pair and pair > 0 else None,
        windows=max(1, min(options.max_chunks_per_doc or 1, MOST_WINDOWS)),
        overlap_tokens=options.overlap_tokens,
        keep=keep,
        strict=strict and pair is None,
    )
    return None if truncation == Truncation() else truncation


def _meant(name: str, value: Truncate, values: Mapping[Truncate, T], wanted: str) -> T:
    """Return what the value of an option means; case and blanks around it don't count."""
    value = value.strip().lower() if isinstance(value, str) else value
    if value not in values:
        raise InvalidRequestError(f"must be {wanted}", field=name)
    return values[value]


def as_list(value: Text | list[Text], field: str) -> list[Text]:
    """Return a list of one document, or of the parts of vLLM's {content: [part, ...]}, each of which is a document."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and _is(content := value.get("content", _NULL), "["):
        return [msgspec.json.decode(part, type=Text) for part in _parts(content, field)]
    return [value]


def texts_of(documents: list[Text], rank_fields: Sequence[str] | None = None, *, field: str) -> list[str]:
    """Return the text of each document that is scored.

    Args:
        documents: texts, or objects that hold them.
        rank_fields: fields of an object that are scored instead.
        field: the name of the documents in the request.

    Raises:
        InvalidRequestError: an object's `content` is no text, its name is mistyped, or there are too many documents.
    """
    if len(documents) > MOST_DOCUMENTS:
        raise InvalidRequestError(f"holds {len(documents)} documents, the limit is {MOST_DOCUMENTS}", field=field)
    if set(map(type, documents)) <= {str}:  # as most lists are; fast for ten thousand
        return cast("list[str]", documents)
    _check_names(documents, rank_fields or (), field)
    return [
        text if isinstance(text, str) else _text_of(text, rank_fields, f"{field}[{place}]")
        for place, text in enumerate(documents)
    ]


def query_of(query: Text, *, blank: bool = False) -> str:
    """Return the query's text.

    Args:
        query: a text, or an object that holds one.
        blank: whether a query without words is accepted.

    Raises:
        EmptyRequestError: it is blank.
    """
    if not isinstance(query, str):
        _check_names([query], (), "query")
        query = _text_of(query, None, "query")
    if not blank and not query.strip():
        raise EmptyRequestError("must not be blank", field="query")
    return query


def _with_text(document: dict[str, Raw], text: str) -> dict[str, Raw]:
    """Return a document with its `text`; the caller's other fields stay."""
    if _is(document.get("text", _NULL), '"'):
        return document
    return {**document, "text": Raw(msgspec.json.encode(text))}


def _ignored_rank_fields(documents: list[Text], rank_fields: Sequence[str] | None) -> tuple[str, ...]:
    """Return a warning if no document has some of the fields; a bare text is as good as one in `text`."""
    missing = set(rank_fields or ())
    for document in documents if missing else ():
        if isinstance(document, str):
            missing.discard("text")
        else:
            missing -= {name for name in missing & document.keys() if not _is(document[name], "n")}
    if not missing:
        return ()
    return (f"rank_fields was ignored where no document has the field: {_names(missing)}",)


def _check_names(documents: Sequence[Text], rank_fields: Sequence[str], field: str) -> None:
    """Refuse objects with a mistyped `text` or `content`: their JSON would be scored in its place."""
    named = {"text", "content", *rank_fields}
    if any(isinstance(document, dict) and not named.isdisjoint(document) for document in documents):
        return
    if wrong := misnamed_key(documents):
        place, key, meant = wrong
        raise InvalidRequestError(
            f"has neither text nor content; did you mean {meant!r} instead of {key!r}?",
            field=field if field == "query" else f"{field}[{place}]",
        )


def _parts(content: Raw, at: str) -> list[Raw]:
    """Return the parts of vLLM's `content`: texts, and objects of which some hold texts."""
    if _is(content, "["):
        parts = msgspec.json.decode(content, type=list[Raw])
        if all(_is(part, '"', "{") for part in parts):
            return parts
    raise InvalidRequestError("must be a string, null or a list of parts", field=f"{at}.content")


def _text_of(document: dict[str, Raw], rank_fields: Sequence[str] | None, at: str) -> str:
    if rank_fields:
        parts = [_as_text(value) for name in rank_fields if not _is(value := document.get(name, _NULL), "n")]
        if parts:
            return "\n".join(parts)
    for name in ("text", "content"):
        value = document.get(name, _NULL)
        if name == "content" and not _is(value, '"', "n"):
            _parts(value, at)
        if _is(value, "["):
            entries = msgspec.json.decode(value, type=list[Raw])
            parts = [part for entry in entries if (part := _part(entry)) is not None]
            if entries and not parts:
                raise InvalidRequestError(f"{name} holds no text; this model reads text only", field=at)
            return "\n".join(parts)
        if not _is(value, "n"):
            return _as_text(value)
    return _as_text(Raw(msgspec.json.encode(document)))


def _part(entry: Raw) -> str | None:
    """Return the text of a content part; None for an image."""
    if _is(entry, "{"):
        entry = msgspec.json.decode(entry, type=dict[str, Raw]).get("text", _NULL)
    return _as_text(entry) if _is(entry, '"') else None


def _is(value: Raw, *begins: str) -> bool:
    """Return whether a JSON value begins with one of these characters, which tells its type."""
    return chr(memoryview(value)[0]) in begins


def _as_text(value: Raw) -> str:
    """Return a string, or else the value's JSON without blanks."""
    if _is(value, '"'):
        return msgspec.json.decode(value, type=str)
    return msgspec.json.format(bytes(value), indent=-1).decode()
