"""What a new color must show before a client meets it: golden scores, every dialect, memory that stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.registry import DIALECTS, dialect_of
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import Golden
from webapp.stack.releases.color_api import ColorApi, Reply

GROWTH_BYTES = 64 * 1024**2
"""A worker that grows by more while it scores the same again and again leaks."""

ROUNDS = 5
ROUND_DOCUMENTS = 64

PATIENCE_S = 60.0

TOLD_BY_HEADERS = {"pinecone": {"X-Pinecone-Api-Version": "2025-10"}}
"""Dialects whose calls look like others'."""

_OK = 200


def golden(color: ColorApi, known: Golden) -> str:
    """The new color scores what its artifact was judged by.

    Raises:
        SetupError: it does not; with the largest difference.
    """
    worst, pairs = 0.0, 0
    for group in known.queries:
        documents = [{"content": text} for text in group.documents]
        body = {"query": group.query, "documents": documents, "top_k": 0, "raw_scores": known.raw}
        reply = _good(color.ask("/rerank", body, timeout_s=PATIENCE_S), "golden pairs")
        scores = {result["index"]: result["score"] for result in reply.json()["results"]}
        if sorted(scores) != list(range(len(group.documents))):
            raise SetupError(f"{len(scores)} of {len(group.documents)} golden pairs got a score")
        pairs += len(scores)
        worst = max([worst, *(abs(scores[index] - score) for index, score in enumerate(group.scores))])
    if not worst <= known.tolerance:
        limit = f"{known.tolerance:.2g}"
        raise SetupError(
            f"golden scores are off by {worst:.2g}, at most {limit} may be: it is not the model that it says"
        )
    return f"{pairs} golden scores within {worst:.1g}"


def smoke(color: ColorApi) -> str:
    """Every dialect gets an answer.

    Raises:
        SetupError: one does not; it is named.
    """
    model = _good(color.ask("/info"), "/info").json()["model"]
    for dialect in DIALECTS:
        body = example(dialect, model)
        headers = TOLD_BY_HEADERS.get(dialect.name, {})
        reply = _good(color.ask(usual_path(dialect), body, headers, timeout_s=PATIENCE_S), dialect.name)
        if not reply.json():
            raise SetupError(f"{dialect.name} got an empty answer")
    return f"{len(DIALECTS)} dialects answer"


def steady_memory(color: ColorApi, settings: Settings, worker_bytes: Callable[[], tuple[int, ...]]) -> str:
    """Scoring again and again takes no more memory each time, and no more than is allowed.

    Args:
        color: under test.
        settings: its own.
        worker_bytes: what each of its workers takes.

    Raises:
        SetupError: it grows, or is too large.
    """
    count = min(ROUND_DOCUMENTS, settings.max_documents)
    before = 0
    for number in range(ROUNDS):  # other texts each time, which no cache knows
        texts = [f"In round {number}, sentence {place} tells of bees that find home." for place in range(count)]
        body = {"query": f"round {number}", "documents": [{"content": text} for text in texts]}
        _good(color.ask("/rerank", body, timeout_s=PATIENCE_S), f"round {number + 1} of scoring")
        if number == 0:  # shapes are compiled, buffers are there
            before = sum(worker_bytes())
    after = worker_bytes()
    if sum(after) - before > GROWTH_BYTES * len(after):
        grown = (sum(after) - before) // 1024**2
        raise SetupError(f"its workers grew by {grown} MB in {ROUNDS - 1} rounds of {count} documents: it leaks")
    largest = max(after, default=0) // 1024**2
    if settings.max_rss_mb and largest > settings.max_rss_mb:
        raise SetupError(f"a worker takes {largest} MB, RERANK_MAX_RSS_MB is {settings.max_rss_mb}")
    return f"workers take {largest} MB each and stay there"


def usual_path(dialect: Dialect) -> str:
    """The first path at which a call with the dialect's example is the dialect's. PURE."""
    return next(path for path in dialect.paths if _speaks(dialect, path)).replace("{model}", "model")


def example(dialect: Dialect, model: str) -> Any:
    """The call that the API's description shows, for the model that is served. PURE."""
    return {name: model if name == "model" else value for name, value in dialect.example.items()}


def _speaks(dialect: Dialect, path: str) -> bool:
    headers = TOLD_BY_HEADERS.get(dialect.name, {})
    return dialect_of(Call(path, headers, msgspec.json.encode(dialect.example))) is dialect


def _good(reply: Reply, what: str) -> Reply:
    if reply.status != _OK:
        raise SetupError(f"{what}: status {reply.status}")
    return reply
