"""What a new color must pass before it gets clients: room in memory, golden scores, every dialect, stable memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from webapp.api.dialects.base import Call, Dialect
from webapp.api.dialects.registry import DIALECTS, dialect_of
from webapp.config.cards import Card
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import Golden
from webapp.stack.local_client import ColorApi
from webapp.stack.processes import children

GROWTH_BYTES = 64 * 1024**2
"""A worker that grows by more than this while it scores again and again has a leak."""

ROUNDS = 5
ROUND_DOCUMENTS = 64

TIMEOUT_S = 60.0

MARGIN = 1.1
"""The other color may take this many times what was measured of one."""

KEPT_FREE_BYTES = 64 * 1024**2
"""Memory that stays free beside two colors."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a color's processes, in bytes; a page that they share is divided among them."""

    master: int
    workers: tuple[int, ...]

    def with_workers(self, count: int) -> int:
        """Return the bytes that it would take with this number of workers. PURE."""
        mean = sum(self.workers) / len(self.workers) if self.workers else 0
        return round(self.master + count * mean)


def measure(master: int) -> Footprint:
    """Return the footprint of a gunicorn master, by its pid, and of its workers; a process that is gone counts 0."""
    return Footprint(_pss_bytes(master), tuple(_pss_bytes(worker) for worker in children(master)))


def needed(active: Footprint, *, workers: int, artifact_growth: int) -> int:
    """Estimate the bytes that a new color will take, from the active one. PURE.

    Args:
        active: the color that serves.
        workers: number of the new color's workers.
        artifact_growth: bytes by which its artifact is larger; each worker compiles a copy of its own.
    """
    return round(MARGIN * (active.with_workers(workers) + max(0, artifact_growth) * (1 + workers)))


def room(needed_bytes: int, free_bytes: int) -> str:
    """Return both figures in words if a new color fits into memory. PURE.

    Raises:
        SetupError: it does not fit.
    """
    needed_mb, free_mb = (f"{count / 1024**2:,.0f}" for count in (needed_bytes, free_bytes))
    figures = f"a new color takes about {needed_mb} MB beside the old one, {free_mb} MB are free"
    if needed_bytes + KEPT_FREE_BYTES > free_bytes:
        raise SetupError(f"{figures}: two colors don't fit; free some, or restart the stack with the new settings")
    return figures


def room_on_cards(card_bytes: int, workers: int, there: Sequence[Card]) -> str:
    """Return in words that the cards have memory for the new color's workers, beside the old color's. PURE.

    Args:
        card_bytes: what a worker takes of its card, as measured when the model was prepared; 0: it uses none.
        workers: of the new color.
        there: the cards; those that don't tell their memory have 0 bytes of it.

    Raises:
        SetupError: one has too little.
    """
    known = sorted((card for card in there if card.memory_bytes), key=lambda card: -card.free_bytes)
    if not card_bytes or not known:
        return ""
    least = known[min(workers, len(known)) - 1]
    needed_mb, free_mb = (f"{count / 1024**2:,.0f}" for count in (MARGIN * card_bytes, least.free_bytes))
    figures = f"{needed_mb} MB of a card, {least.name} has {free_mb} MB free"
    if MARGIN * card_bytes > least.free_bytes:
        raise SetupError(
            f"a new worker takes about {figures}: two colors don't fit; restart the stack with the new settings"
        )
    return figures


def size_of(directory: Path) -> int:
    """Return the bytes of the files in a directory; 0 when it is not there."""
    return sum(path.stat().st_size for path in directory.glob("*") if path.is_file())


def golden(color: ColorApi, known: Golden) -> str:
    """Check that the color's scores of known pairs are those that its artifact was accepted with.

    Raises:
        SetupError: they differ by more than the tolerance; the message has the largest difference.
    """
    worst, pairs = 0.0, 0
    for group in known.queries:
        documents = [{"content": text} for text in group.documents]
        body = {"query": group.query, "documents": documents, "top_k": 0, "raw_scores": known.raw}
        body["instruction"] = known.instruction
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


def _pss_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) * 1024
    return 0
