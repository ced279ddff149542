"""What metrics cost the hub for each request, in a gevent process that writes them through to files.

.venv/bin/python bench/metering.py
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import tempfile  # noqa: E402
import timeit  # noqa: E402

TIMES = 50_000


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # before the import, which looks at it
        from prometheus_client import CollectorRegistry

        from webapp.telemetry.metrics import Metrics
        from webapp.telemetry.observer import Reply

        metrics = Metrics(CollectorRegistry())
        facts = {"documents": 5, "tokens": 50, "queue_ms": 2.0, "tokenise_ms": 3.0, "score_ms": 4.0}
        reply = Reply("POST", "/rerank", "native", 200, 0.02, "id", {}, facts)
        print("| of a request | microseconds |\n|---|---|")
        best = min(timeit.repeat(lambda: metrics.replied(reply), number=TIMES, repeat=5))
        print(f"| counting | {best / TIMES * 1e6:.1f} |")
        print(f"| publishing, once a second | {timeit.timeit(metrics.publish, number=1000) / 1000 * 1e6:.1f} |")


main()
