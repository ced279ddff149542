"""Requests whose right answers are known before the service is asked."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import load_kit as load
import requests
import small_models

from nemesis.judging import RefusedInPartError
from webapp.config.settings import Settings
from webapp.domain.types import RerankRequest
from webapp.servers.local import local_reranker

QUERIES = 12
DOCUMENTS = 1500
CHARS = 600
"""Length of a document: more than the model reads, so that what follows makes no difference to its score."""

LARGE_DOCUMENTS = 340
LARGE_CHARS = 4000
"""Length of a document in a large request: bodies and replies of 1.4 MB, which cost little to score. Nginx keeps a
body above 1.25 MB in a file."""

TOLERANCE = 1e-3
"""Largest difference of equal scores: an engine's batches are not bit-equal."""

KEY = "the-key"
HEADERS = {"X-Api-Key": KEY}
"""What shows that a client may ask. Hostile ones have the key, too, where that takes them further."""

PAGES = ("/ready", "/metrics", "/progress", "/dashboard/")
"""What the parts of the service answer by themselves."""


@dataclass(frozen=True)
class Ask:
    """A request, and what is right for it."""

    path: str
    right: Callable[[bytes], str]
    """Tells what is wrong with a reply's body, in words; empty where nothing is."""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    large: bool = False
    """Whether its body or its reply is above a megabyte."""


class Known:
    """Texts, and the score of each pair of them."""

    def __init__(
        self, queries: list[str], documents: list[str], scores: list[list[float]], *, exact: bool = True
    ) -> None:
        """Remember.

        Args:
            queries: what is asked.
            documents: what is ranked.
            scores: of each query, one for each document.
            exact: whether scores are the same in every batch.
        """
        self._queries = queries
        self._documents = documents
        self._scores = scores
        self._tolerance = 0.0 if exact else TOLERANCE
        self._dialects: list[load.Ask] = []
        self._dialect_scores: dict[str, list[float]] = {}

    @classmethod
    def by_artifact(cls, settings: Settings, *, exact: bool) -> Self:
        """Score every pair in this process, with the artifact that the service has."""
        rng = random.Random(17)
        queries = [f"{number} {' '.join(rng.choices(small_models.WORDS, k=6))}" for number in range(QUERIES)]
        heads = [f"{number} {' '.join(rng.choices(small_models.WORDS, k=25))} " for number in range(DOCUMENTS)]
        documents = [lengthened(head, CHARS) for head in heads]
        with local_reranker(settings) as reranker:
            results = [reranker.rerank(RerankRequest(query, documents, documents)) for query in queries]
        scores = [[score for _, score in sorted(zip(each.order, each.scores, strict=True))] for each in results]
        return cls(queries, documents, scores, exact=exact)

    def learn_dialects(self, url: str) -> None:
        """Ask a service that nothing harms once in each vendor's format, and remember its scores."""
        self._dialects, _ = load.asks()
        for ask in self._dialects:
            reply = requests.post(url + ask.path, data=ask.body, headers={**HEADERS, **ask.headers}, timeout=60)
            assert reply.status_code == 200, (ask.name, reply.text[:300])
            self._dialect_scores[ask.name] = load.scores_in(reply.json())

    def small(self, rng: random.Random) -> Ask:
        """Four documents in our own format."""
        return self._native(rng, 4)

    def medium(self, rng: random.Random) -> Ask:
        """The best ten of sixty, without their texts."""
        return self._native(rng, 60, top_k=10, return_documents=False)

    def large(self, rng: random.Random) -> Ask:
        """More than a megabyte, there and back."""
        return self._native(rng, LARGE_DOCUMENTS, LARGE_CHARS)

    def compressed(self, rng: random.Random) -> Ask:
        """A packed body, and a packed reply where nginx packs it."""
        ask = self._native(rng, 30)
        return Ask(
            ask.path,
            ask.right,
            gzip.compress(ask.body or b"", 1),
            {"Content-Encoding": "gzip", "Accept-Encoding": "gzip"},
        )

    def batch(self, rng: random.Random) -> Ask:
        """Five requests in one call."""
        bodies, checks = zip(*(self._request(rng, 8, CHARS) for _ in range(5)), strict=True)

        def right(body: bytes) -> str:
            replies = json.loads(body)
            errors = [reply["error"] for reply in replies if "error" in reply]
            if errors and all(error["retryable"] for error in errors):
                raise RefusedInPartError(str(errors))
            if len(replies) != len(checks):
                return f"{len(replies)} replies to {len(checks)} requests"
            return "; ".join(filter(None, (check(reply) for check, reply in zip(checks, replies, strict=True))))

        return Ask("/rerank/batch", right, json.dumps(bodies).encode())

    def dialect(self, rng: random.Random) -> Ask:
        """The example of another vendor's format."""
        chosen = rng.choice(self._dialects)
        expected = self._dialect_scores[chosen.name]

        def right(body: bytes) -> str:
            return self._compare(load.scores_in(json.loads(body)), expected, chosen.name)

        return Ask(chosen.path, right, chosen.body, chosen.headers)

    def _native(self, rng: random.Random, count: int, chars: int = CHARS, **options: Any) -> Ask:
        body, check = self._request(rng, count, chars, **options)
        large = chars == LARGE_CHARS
        return Ask("/rerank", lambda reply: check(json.loads(reply)), json.dumps(body).encode(), large=large)

    def _request(
        self, rng: random.Random, count: int, chars: int, **options: Any
    ) -> tuple[dict[str, Any], Callable[[Any], str]]:
        """Return a request of documents drawn at random, and its check."""
        number = rng.randrange(len(self._queries))
        chosen = rng.sample(range(len(self._documents)), count)
        scores = [self._scores[number][each] for each in chosen]
        order = sorted(range(count), key=lambda place: (-scores[place], place))[: options.get("top_k", count)]
        with_texts = options.get("return_documents", True)
        query, texts = self._queries[number], [lengthened(self._documents[each], chars) for each in chosen]

        def check(reply: Any) -> str:
            results = reply["results"]
            if reply["query"] != query:
                return f"the query is {reply['query']!r}, and {query!r} was asked"
            if self._tolerance == 0 and [each["index"] for each in results] != order:
                return f"the order is {[each['index'] for each in results][:10]}..., not {order[:10]}..."
            if with_texts and any(each["content"] != texts[each["index"]] for each in results):
                return "a text is not that of its document"
            return self._compare([each["score"] for each in results], [scores[each] for each in order], "scores")

        body = {"query": query, "documents": [{"content": text} for text in texts], "top_k": 0, **options}
        return body, check

    def _compare(self, got: list[float], expected: list[float], what: str) -> str:
        if len(got) != len(expected):
            return f"{what}: {len(got)} instead of {len(expected)}"
        worst = max((abs(one - other) for one, other in zip(got, expected, strict=True)), default=0.0)
        return f"{what} are off by {worst:g}" if worst > self._tolerance else ""


def lengthened(text: str, chars: int) -> str:
    """Return a text with so many characters, the last of which say always the same."""
    return text + ("milk " * chars)[: chars - len(text)]


def page(path: str) -> Ask:
    """Return a request for a page or a figure, of which only the status is known."""
    return Ask(path, lambda body: "" if body else "the page is empty")
