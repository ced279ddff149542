"""What a new color must pass before it gets clients: golden scores, every dialect, stable memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.registry import DIALECTS, dialect_of
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import Golden
from webapp.stack.local_client import ColorApi

GROWTH_BYTES = 64 * 1024**2
"""A worker that grows by more than this while it scores again and again has a leak."""

ROUNDS = 5
ROUND_DOCUMENTS = 64

TIMEOUT_S = 60.0


def golden(color: ColorApi, known: Golden) -> str:
    """Check that the color's scores of known pairs are those that its artifact was accepted with.

    Raises:
        SetupError: they differ by more than the tolerance; the message has the largest difference.
    """
    worst, pairs = 0.0, 0
    for group in known.queries:
        documents = [{"content": text} for text in group.documents]
        body = {"query": group.query, "documents": documents, "top_k": 0, "raw_scores": known.raw}
        results = _json(color, "golden pairs", "/rerank", body)["results"]
        scores = {result["index"]: result["score"] for result in results}
        if sorted(scores) != list(range(len(group.documents))):
            raise SetupError(f"{len(scores)} of {len(group.documents)} golden pairs got a score")
        pairs += len(scores)
        worst = max([worst, *(abs(scores[index] - score) for index, score in enumerate(group.scores))])
    if not worst <= known.tolerance:  # also for NaN
        limit = f"{known.tolerance:.2g}"
        raise SetupError(
            f"golden scores are off by {worst:.2g}, at most {limit} may be: it is not the model that it says"
        )
    return f"{pairs} golden scores within {worst:.1g}"


def smoke(color: ColorApi) -> str:
    """Check that the color answers a call of each dialect.

    Raises:
        SetupError: it does not answer one; the message names the dialect.
    """
    model = _json(color, "/info", "/info")["model"]
    for dialect in DIALECTS:
        # The call that the API's description shows, for the model that is served.
        body = {name: model if name == "model" else value for name, value in dialect.example.items()}
        if not _json(color, dialect.name, usual_path(dialect), body, dialect.headers):
            raise SetupError(f"{dialect.name} got an empty answer")
    return f"{len(DIALECTS)} dialects answer"


def steady_memory(color: ColorApi, settings: Settings, worker_bytes: Callable[[], tuple[int, ...]]) -> str:
    """Check that repeated scoring takes no more memory each time, and no more than RERANK_MAX_RSS_MB.

    Args:
        color: the color to check.
        settings: of its release.
        worker_bytes: returns the memory of each of its workers.

    Raises:
        SetupError: the memory grows, or is too large.
    """
    count = min(ROUND_DOCUMENTS, settings.max_documents)
    before = 0
    for number in range(ROUNDS):  # with new texts each time, which no cache knows
        texts = [f"In round {number}, sentence {place} tells of bees that find home." for place in range(count)]
        body = {"query": f"round {number}", "documents": [{"content": text} for text in texts]}
        _json(color, f"round {number + 1} of scoring", "/rerank", body)
        if number == 0:  # the engine has compiled its shapes and made its buffers
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
    """Return the first path at which the dialect's example is taken for that dialect's call. PURE."""
    example = msgspec.json.encode(dialect.example)
    path = next(path for path in dialect.paths if dialect_of(Call(path, dialect.headers, example)) is dialect)
    return path.replace("{model}", "model")


def _json(color: ColorApi, what: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
    reply = color.ask(path, body, headers, timeout_s=TIMEOUT_S)
    if reply.status != 200:  # noqa: PLR2004
        raise SetupError(f"{what}: status {reply.status}")
    return reply.json()
