"""Questions -> requests of a bearable size, and their answers -> one ranking a question. PURE.

Only texts travel: what a reply would repeat, content and metadata, is here already.
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
"""A text, or a mapping with `content` and perhaps `metadata`."""

Answer = Ranking | RefusedError


MOST_QUESTIONS = 1000
"""Of one request: what a service takes unless it is told otherwise (`RERANK_MAX_BATCH_REQUESTS`)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A query and its candidates."""

    query: str
    documents: Sequence[Document]
    top_n: int | None = None
    """How many results to return; None: all."""
    raw_scores: bool = False
    """The model's own numbers instead of 0..1."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the service knows: `max_chunks_per_doc`, `truncation_side`, `priority`, ..."""

    def __post_init__(self) -> None:
        """Refuse what would only look like a list of documents.

        Raises:
            TypeError: names the place.
        """
        if isinstance(self.documents, str | bytes | Mapping):
            raise TypeError(f"documents: must be a list, not {type(self.documents).__name__}")
        for place, document in enumerate(self.documents):
            text = document.get("content") if isinstance(document, Mapping) else document
            if not isinstance(text, str):
                raise TypeError(f"documents[{place}]: must be a text, or a mapping whose content is one")

    def text(self, index: int) -> str:
        """Of a document."""
        document = self.documents[index]
        return document if isinstance(document, str) else document["content"]

    def metadata(self, index: int) -> Mapping[str, Any]:
        """Of a document; empty where it has none."""
        document = self.documents[index]
        return {} if isinstance(document, str) else document.get("metadata") or {}


@dataclass(frozen=True, slots=True)
class Slice:
    """Some documents of one question."""

    number: int
    """The question's place among all."""
    question: Question
    start: int
    stop: int

    def as_json(self) -> dict[str, Any]:
        """As our own format has it: objects with content, by which the service knows the format."""
        return {
            **self.question.options,
            "query": self.question.query,
            "documents": [{"content": self.question.text(index)} for index in range(self.start, self.stop)],
            # The best of all are among the best of each slice.
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
        """Where it goes."""
        return "/rerank" if len(self.slices) == 1 else "/rerank/batch"

    @property
    def documents(self) -> int:
        """How many it holds."""
        return sum(each.stop - each.start for each in self.slices)

    def body(self) -> bytes:
        """Its JSON."""
        asked = [each.as_json() for each in self.slices]
        value = asked[0] if len(asked) == 1 else asked
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except UnicodeEncodeError:  # half a surrogate pair, of a text that was cut in the middle: only as an escape
            return json.dumps(value, allow_nan=False).encode()


def plan(questions: Sequence[Question], most_documents: int) -> list[Part]:
    """Divide questions into requests of at most so many documents each, in order: large ones are sliced."""
    parts: list[Part] = []
    gathered: list[Slice] = []
    room = most_documents
    for one in _slices(questions, most_documents):
        size = one.stop - one.start
        if gathered and (size > room or len(gathered) == MOST_QUESTIONS):
            parts.append(Part(tuple(gathered)))
            gathered, room = [], most_documents
        gathered.append(one)
        room -= size
    return [*parts, Part(tuple(gathered))] if gathered else parts


def _slices(questions: Sequence[Question], most_documents: int) -> Iterator[Slice]:
    for number, question in enumerate(questions):
        count = len(question.documents)
        for start in range(0, max(1, count), most_documents):
            yield Slice(number, question, start, min(count, start + most_documents))


def read(part: Part, body: bytes, request_id: str) -> list[Answer]:
    """The answer to each of a part's slices.

    Raises:
        BadReplyError: it is none.
    """
    try:
        told = json.loads(body)
        entries = [told] if len(part.slices) == 1 else told
        return [_answer(one, entry, request_id) for one, entry in zip(part.slices, entries, strict=True)]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BadReplyError("the reply is none of this service's", request_id=request_id) from error


def _answer(one: Slice, told: Any, request_id: str) -> Answer:
    if "error" in told:
        code, message = str(told["error"]["code"]), str(told["error"]["message"])
        return RefusedError(f"question {one.number}: {message}", code=code, request_id=request_id)
    return Ranking(
        query=one.question.query,
        results=tuple(_result(one, entry) for entry in told["results"]),
        model=str(told.get("scored_by") or told["model"]),
        latency_ms=float(told["latency_ms"]),
        request_id=request_id,
        degraded=told.get("degraded") is True,
        warnings=tuple(map(str, told.get("warnings", ()))),
    )


def _result(one: Slice, told: Any) -> Result:
    place, span = int(told["index"]), told.get("span")
    if not 0 <= place < one.stop - one.start:
        raise ValueError("a result for no document")
    index = one.start + place
    return Result(
        index=index,
        score=float(told["score"]),
        content=one.question.text(index),
        metadata=one.question.metadata(index),
        truncated=told.get("truncated") is True,
        span=None if span is None else (int(span[0]), int(span[1])),
    )


def merge(parts: Sequence[Part], answers: Sequence[list[Answer]], request_id: str) -> list[Answer]:
    """One answer for each question, in order, from those of all parts.

    Raises:
        BadReplyError: slices of one question were scored by different models, so their scores say nothing together.
    """
    by_question: dict[int, tuple[Question, list[Answer]]] = {}
    for part, told in zip(parts, answers, strict=True):
        for one, answer in zip(part.slices, told, strict=True):
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
    # Each part's own order stands: it knows the logits, some of which give the same score. Ties go by index, as there.
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
