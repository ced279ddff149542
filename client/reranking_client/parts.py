"""Split questions into requests of a limited size, and merge the answers into one ranking a question. PURE.

Only texts are sent. Replies repeat neither content nor metadata, because the caller has both.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reranking_client.failures import BadReplyError, RefusedError
from reranking_client.results import Ranking, Result

Document = str | Mapping[str, Any]
"""A text, or a mapping with `content` and optionally `metadata`."""

Answer = Ranking | RefusedError


MAX_QUESTIONS = 1000
"""Most questions of one request: the service's default limit (`RERANK_MAX_BATCH_REQUESTS`)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query and its candidates."""

    query: str
    documents: Sequence[Document]
    top_n: int | None = None
    """How many results to return; None: all."""
    raw_scores: bool = False
    """Return the model's own scores instead of 0..1."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the request: `instruction`, `max_chunks_per_doc`, `truncation_side`, `priority`, ..."""

    def __post_init__(self) -> None:
        """Check that `documents` is a list of documents.

        Raises:
            TypeError: the message has the index of the wrong document.
        """
        if isinstance(self.documents, str | bytes | Mapping):
            raise TypeError(f"documents: must be a list, not {type(self.documents).__name__}")
        for index, document in enumerate(self.documents):
            text = document.get("content") if isinstance(document, Mapping) else document
            if not isinstance(text, str):
                raise TypeError(f"documents[{index}]: must be a text, or a mapping whose content is one")

    def text(self, index: int) -> str:
        """Return the text of a document."""
        document = self.documents[index]
        return document if isinstance(document, str) else document["content"]

    def metadata(self, index: int) -> Mapping[str, Any]:
        """Return the metadata of a document; empty if it has none."""
        document = self.documents[index]
        return {} if isinstance(document, str) else document.get("metadata") or {}


@dataclass(frozen=True, slots=True)
class Slice:
    """Some documents of one question."""

    number: int
    """Index of the question among all questions."""
    question: Question
    start: int
    stop: int

    def as_json(self) -> dict[str, Any]:
        """Return the request in our own format. Documents with `content` tell the service the format."""
        return {
            **self.question.options,
            "query": self.question.query,
            "documents": [{"content": self.question.text(index)} for index in range(self.start, self.stop)],
            # The best documents of the whole list are among the best of their slices.
            "top_k": self.question.top_n or 0,
            "raw_scores": self.question.raw_scores,
            "return_documents": False,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """One request."""

    slices: tuple[Slice, ...]

    @property
    def path(self) -> str:
        """Path of the endpoint."""
        return "/rerank" if len(self.slices) == 1 else "/rerank/batch"

    @property
    def documents(self) -> int:
        """Number of documents in this request."""
        return sum(each.stop - each.start for each in self.slices)

    def body(self) -> bytes:
        """Return the JSON body."""
        entries = [each.as_json() for each in self.slices]
        value = entries[0] if len(entries) == 1 else entries
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, from a text that was cut: needs an escape
            return json.dumps(value, allow_nan=False).encode()


def plan(questions: Sequence[Question], max_documents: int) -> list[Part]:
    """Split questions into requests of at most `max_documents` each, in order. A larger question becomes several."""
    parts: list[Part] = []
    pending: list[Slice] = []
    room = max_documents
    for one in _slices(questions, max_documents):
        size = one.stop - one.start
        if pending and (size > room or len(pending) == MAX_QUESTIONS):
            parts.append(Part(tuple(pending)))
            pending, room = [], max_documents
        pending.append(one)
        room -= size
    return [*parts, Part(tuple(pending))] if pending else parts


def _slices(questions: Sequence[Question], max_documents: int) -> Iterator[Slice]:
    for number, question in enumerate(questions):
        count = len(question.documents)
        for start in range(0, max(1, count), max_documents):
            yield Slice(number, question, start, min(count, start + max_documents))


def read(part: Part, body: bytes, request_id: str) -> list[Answer]:
    """Return the answer to each slice of a part.

    Raises:
        BadReplyError: the body is not a reply of the service.
    """
    try:
        value = json.loads(body)
        entries = [value] if len(part.slices) == 1 else value
        return [_answer(one, entry, request_id) for one, entry in zip(part.slices, entries, strict=True)]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BadReplyError("the reply is not one of a reranking service", request_id=request_id) from error


def _answer(one: Slice, entry: Any, request_id: str) -> Answer:
    if "error" in entry:
        code, message = str(entry["error"]["code"]), str(entry["error"]["message"])
        return RefusedError(f"question {one.number}: {message}", code=code, request_id=request_id)
    return Ranking(
        query=one.question.query,
        results=tuple(_result(one, result) for result in entry["results"]),
        model=str(entry.get("scored_by") or entry["model"]),
        latency_ms=float(entry["latency_ms"]),
        request_id=request_id,
        degraded=entry.get("degraded") is True,
        warnings=tuple(map(str, entry.get("warnings", ()))),
    )


def _result(one: Slice, entry: Any) -> Result:
    offset, span = int(entry["index"]), entry.get("span")
    if not 0 <= offset < one.stop - one.start:
        raise ValueError("a result whose index is out of range")
    index = one.start + offset
    return Result(
        index=index,
        score=float(entry["score"]),
        content=one.question.text(index),
        metadata=one.question.metadata(index),
        truncated=entry.get("truncated") is True,
        span=None if span is None else (int(span[0]), int(span[1])),
    )


def merge(parts: Sequence[Part], answers: Sequence[list[Answer]], request_id: str) -> list[Answer]:
    """Return one answer for each question, in order, from the answers of all parts.

    Raises:
        BadReplyError: slices of one question were scored by different models, so their scores can't be compared.
    """
    by_question: dict[int, tuple[Question, list[Answer]]] = {}
    for part, part_answers in zip(parts, answers, strict=True):
        for one, answer in zip(part.slices, part_answers, strict=True):
            by_question.setdefault(one.number, (one.question, []))[1].append(answer)
    return [_merged(question, pieces, request_id) for question, pieces in by_question.values()]


def _merged(question: Question, pieces: list[Answer], request_id: str) -> Answer:
    rankings = []
    for piece in pieces:
        if isinstance(piece, RefusedError):
            return piece
        rankings.append(piece)
    if len(rankings) == 1:
        return rankings[0]
    models = sorted({each.model for each in rankings})
    if len(models) > 1:
        message = f"parts of the list were scored by different models ({', '.join(models)}); ask again"
        raise BadReplyError(message, request_id=request_id)
    # Keep the order within each part: different logits can give equal scores. Ties go by index, as in the service.
    best = heapq.merge(*(each.results for each in rankings), key=lambda result: (-result.score, result.index))
    return Ranking(
        query=question.query,
        results=tuple(best)[: question.top_n or None],
        model=models[0],
        latency_ms=max(each.latency_ms for each in rankings),
        request_id=request_id,
        degraded=any(each.degraded for each in rankings),
        warnings=tuple(dict.fromkeys(warning for each in rankings for warning in each.warnings)),
    )
