"""One worker or two? Throughput and latency, each worker with as many engine threads as there are cores.

Run: .venv/bin/python bench/workers.py
"""

from __future__ import annotations

import harness
import load

WORKLOADS = (("50 documents", 50, 4, 24), ("1 document", 1, 16, 400))


def main() -> None:
    print(f"{harness.machine()}; MiniLM-L6 shape, documents of about 80 tokens, 2 engine threads a worker\n")
    print("| workers | workload | documents/s | p50 ms | p99 ms |")
    print("|---|---|---|---|---|")
    model = harness.minilm_cross_encoder()
    for workers in (1, 2, 1, 2):
        with harness.service(model, workers=workers, engine_threads=2, cache_mb=0) as service:
            for name, documents, concurrency, count in WORKLOADS:
                bodies = [
                    harness.body(f"query {seed}", harness.texts(documents, mean_words=60, seed=seed))
                    for seed in range(count)
                ]
                load.closed_loop(service.port, bodies[: concurrency * 2], concurrency)  # shapes compile at first use
                outcome = load.closed_loop(service.port, bodies, concurrency)
                print(
                    f"| {workers} | {name}, concurrency {concurrency} | {outcome.rate * documents:.0f}"
                    f" | {outcome.latency_ms(0.5):.0f} | {outcome.latency_ms(0.99):.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
