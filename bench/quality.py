"""What a precision costs in rank quality: Cranfield's test queries, BM25's best 100 reranked.

Run: .venv/bin/python bench/quality.py (needs ../shared/data)
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import harness
import numpy as np
from scipy.stats import kendalltau

from webapp.config.settings import Settings
from webapp.domain.concurrency import NativeWaiter, allocate_lock, start_native_thread
from webapp.engine.loader import load_engine
from webapp.engine.pool import EnginePool
from webapp.engine.prepare.pipeline import prepare
from webapp.scheduling.scheduler import Scheduler

DATA = harness.ROOT.parent / "shared" / "data"
CANDIDATES = 100
ENGINES = (("openvino", "fp32"), ("native", "int8"), ("openvino", "int8"))


def read_lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class BM25:
    """Okapi BM25 with the usual k1 = 1.2, b = 0.75 (Robertson and Zaragoza, 2009): the first stage."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
        self._lengths = np.array([sum(count.values()) for count in self._counts])
        self._seen_in = Counter(word for count in self._counts for word in count)

    def best(self, query: str, count: int) -> list[int]:
        scores = np.zeros(len(self._counts))
        norm = 1.2 * (0.25 + 0.75 * self._lengths / self._lengths.mean())
        for word in set(re.findall(r"\w+", query.lower())):
            seen_in = self._seen_in[word]
            weight = math.log(1 + (len(self._counts) - seen_in + 0.5) / (seen_in + 0.5))
            frequency = np.array([each[word] for each in self._counts])
            scores += weight * frequency * 2.2 / (frequency + norm)
        return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]


def ndcg10(ranked: Sequence[str], relevant: Mapping[str, int]) -> float:
    gain = sum(1 / math.log2(place + 2) for place, each in enumerate(ranked[:10]) if relevant.get(each, 0) > 0)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(10, sum(value > 0 for value in relevant.values()))))
    return gain / ideal if ideal else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, help="take only this many of the test queries")
    most = parser.parse_args().queries
    corpus = read_lines(DATA / "cranfield" / "corpus.jsonl")
    texts = [f"{document.get('title', '')} {document['text']}".strip() for document in corpus]
    names = [document["_id"] for document in corpus]
    queries = {query["_id"]: query["text"] for query in read_lines(DATA / "cranfield" / "queries.jsonl")}
    relevant: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (DATA / "cranfield" / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, value = line.split("\t")
        relevant[query][document] = int(value)
    relevant = dict(list(relevant.items())[:most])
    first_stage = BM25(texts)
    candidates = {query: first_stage.best(queries[query], CANDIDATES) for query in relevant}

    def mean_ndcg(orders: Mapping[str, Sequence[int]]) -> float:
        return float(
            np.mean([ndcg10([names[index] for index in orders[query]], relevant[query]) for query in relevant])
        )

    print(f"{harness.machine()}; {len(relevant)} queries, cranfield-ce\n")
    print("| | nDCG@10 | mean Kendall tau to fp32 | top-10 overlap |\n|---|---|---|---|")
    print(f"| BM25 | {mean_ndcg(candidates):.4f} | | |", flush=True)
    reference: dict[str, np.ndarray] = {}
    for engine, precision in ENGINES:
        settings = Settings.model_validate(
            {
                "model": str(DATA / "cranfield-ce"),
                "engine": engine,
                "precision": precision,
                "gate_min_tau": -1,  # what the gate would refuse is worth measuring too
                "state_dir": harness.STATE_DIR / "state",
            }
        )
        prepare(settings, lambda _: None)
        threads = harness.cores()
        loaded = load_engine(settings)
        scheduler = Scheduler(lock=allocate_lock(), budget_tokens=512, threads=threads, padded=loaded.padded)
        EnginePool(loaded, scheduler.step, threads=threads, start_thread=start_native_thread).start()
        logits: dict[str, np.ndarray] = {}
        for query, found in candidates.items():
            waiter = NativeWaiter()
            ticket = scheduler.submit(queries[query], [texts[index] for index in found], waiter.wake)
            assert waiter.wait(600) and ticket.succeeded
            logits[query] = ticket.logits
        scheduler.close()
        reference = reference or logits
        orders = {query: [candidates[query][place] for place in np.argsort(-logits[query])] for query in candidates}
        tau = np.mean([kendalltau(logits[query], reference[query]).statistic for query in candidates])
        overlap = np.mean(
            [
                len(set(np.argsort(-logits[query])[:10]) & set(np.argsort(-reference[query])[:10])) / 10
                for query in candidates
            ]
        )
        print(f"| {engine} {precision} | {mean_ndcg(orders):.4f} | {tau:.3f} | {overlap:.3f} |", flush=True)


if __name__ == "__main__":
    main()
