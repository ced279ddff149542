"""What reading and writing a request costs the hub, dialect by dialect: 1,000 documents of 500 characters, echoed."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import msgspec

from webapp.api.dialects.base import Call
from webapp.api.dialects.registry import dialect_of
from webapp.domain.types import RerankRequest, RerankResult

COUNT = 1000
CHARS = 500
ROUNDS = 60


def bodies() -> dict[str, tuple[str, dict]]:
    rng = random.Random(1)
    texts = ["".join(rng.choices("abcdefgh ijklmno pqrstuv wxyz äé", k=CHARS)) for _ in range(COUNT)]
    objects = [{"text": text, "id": str(number)} for number, text in enumerate(texts)]
    native = [{"content": text, "metadata": {"id": number}} for number, text in enumerate(texts)]
    return {
        "native": ("/rerank", {"query": "q", "documents": native, "top_k": 0}),
        "documents, texts": ("/v1/rerank", {"query": "q", "documents": texts, "return_documents": True}),
        "documents, objects": ("/v1/rerank", {"query": "q", "documents": objects, "return_documents": True}),
        "documents, no echo": ("/v1/rerank", {"query": "q", "documents": texts}),
        "TEI": ("/rerank", {"query": "q", "texts": texts, "return_text": True}),
    }


def read(path: str, raw: bytes) -> list[RerankRequest]:
    """Do what a view does before it scores."""
    call = Call(path, {}, raw, "id", 1)
    return dialect_of(call).parse(call)


def best_ms(run: Callable[[], object]) -> tuple[float, float]:
    """Median and slowest but three of many runs."""
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took), sorted(took)[-4]


def main() -> None:
    print("| request | in, ms (p95) | out, ms (p95) | reply, KB |")
    print("|---|---|---|---|")
    for name, (path, body) in bodies().items():
        raw = msgspec.json.encode(body)

        call = Call(path, {}, raw, "id", 1)
        (request,) = read(path, raw)
        order = list(range(COUNT))
        random.Random(2).shuffle(order)
        scores = sorted((random.Random(3).random() for _ in order), reverse=True)
        result = RerankResult(request, order, scores, [False] * COUNT, 9, 0, "m", 1.0)
        dump = dialect_of(call).dump
        (in_ms, in_late), (out_ms, out_late) = best_ms(partial(read, path, raw)), best_ms(partial(dump, [result], call))
        size = len(dump([result], call)) // 1000
        print(f"| {name} | {in_ms:.2f} ({in_late:.2f}) | {out_ms:.2f} ({out_late:.2f}) | {size} |")


if __name__ == "__main__":
    main()
