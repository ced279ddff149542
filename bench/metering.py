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

        from webapp.telemetry.meter import Meter
        from webapp.telemetry.metrics import Metrics
        from webapp.telemetry.observer import Caller, Reply
        from webapp.types import RerankRequest, RerankResult, Spent

        meter = Meter(Metrics(CollectorRegistry()))
        texts = ["text"] * 5
        request = RerankRequest(query="q", documents=texts, originals=texts)
        outcomes = [RerankResult(request, [], [], [], 50, 0, "stub", 9.0, spent=Spent(2, 3, 4))]
        reply = Reply("POST", "/rerank", "native", 200, 0.02, "id", {}, {"documents": 5})
        caller = Caller("id", "native")

        def one_request() -> None:
            meter.ended(meter.accepted(caller, [request], int), outcomes)
            meter.replied(reply)

        print("| of a request | microseconds |\n|---|---|")
        for name, run in (("all", one_request), ("the reply's part", lambda: meter.replied(reply))):
            print(f"| {name} | {min(timeit.repeat(run, number=TIMES, repeat=5)) / TIMES * 1e6:.1f} |")
        print(f"| publishing, once a second | {timeit.timeit(meter.publish, number=1000) / 1000 * 1e6:.1f} |")


main()
