"""Minutes of traffic before an open dashboard: do its rows double, does it grow, does anything complain?

Usage: python bench/dashboard_nodes.py [--minutes 10] [--rate 10]
One page stays open while requests come, good, failing and rubbish, with a pause every third minute; another is loaded
anew every ten seconds. Prints rows and nodes as they were, then nginx' lines at error level and above, and all that the
browsers' consoles said. Ends with 1 when a row was there twice, a list grew beyond its bound, or somebody complained.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Self

import harness
from playwright.sync_api import Page, sync_playwright

RELOAD_S = 10.0
SAMPLE_S = 30.0
PAUSE_EVERY_S, PAUSE_S = 180.0, 40.0

COUNT = """() => {
  const lists = {};
  let doubled = 0;
  for (const list of document.querySelectorAll("#overview ul[id], #overview ol[id], #overview dl[id]")) {
    const keys = [...list.children].map((row) => row.dataset.key);
    lists[list.id] = keys.length;
    doubled += keys.length - new Set(keys).size;
  }
  const heap = Math.round((performance.memory?.usedJSHeapSize ?? 0) / 1e6);
  return {nodes: document.querySelectorAll("*").length, doubled, heap, lists};
}"""

BOUNDS = {"running": 60, "recent": 12, "events": 12, "releases": 5, "lamps": 5, "figures": 7}
"""List -> most rows it ever shows unfolded."""

SEEN_BEFORE = "existence failed"
"""nginx' complaint about the log of a deploy's traffic; counted apart, for it is not the dashboard's."""


class Traffic:
    """Sends requests at a rate, one after the other, inside `with`."""

    def __init__(self, url: str, rate: float) -> None:
        self.answers: Counter[int] = Counter()
        self._url = url
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        rng, began = random.Random(0), time.monotonic()
        number = 0
        while not self._stop.wait(rng.expovariate(self._rate)):
            if (time.monotonic() - began) % PAUSE_EVERY_S > PAUSE_EVERY_S - PAUSE_S:
                continue
            number += 1
            body = {"query": "bees", "documents": [f"{number} {n}" for n in range(rng.choice([4, 20, 300]))]}
            data = b'{"query": ' if number % 17 == 0 else json.dumps(body).encode()
            # Now and then an id that was there before.
            name = "again" if number % 5 == 0 else f"request-{number}"
            try:
                asked = urllib.request.Request(f"{self._url}/rerank", data, {"X-Request-Id": name})
                with urllib.request.urlopen(asked, timeout=60) as reply:
                    reply.read()
                    self.answers[reply.status] += 1
            except urllib.error.HTTPError as error:
                self.answers[error.code] += 1


def open_page(page: Page, url: str, said: list[str]) -> Page:
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"exception: {error}"))
    page.goto(f"{url}/dashboard/")
    page.wait_for_selector("#workers li")
    return page


def watch(url: str, minutes: float, said: list[str]) -> list[dict[str, Any]]:
    samples, loads = [], []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        kept, loaded = (open_page(browser.new_page(), url, said) for _ in range(2))
        began, next_sample = time.monotonic(), 0.0
        print("| s | nodes | heap MB | running | recent | events | rows that are there twice |")
        print("|---|---|---|---|---|---|---|")
        while (passed := time.monotonic() - began) < minutes * 60:
            if passed >= next_sample:
                next_sample += SAMPLE_S
                samples.append(sample := kept.evaluate(COUNT))
                rows = " | ".join(str(sample["lists"][name]) for name in ("running", "recent", "events"))
                print(
                    f"| {passed:.0f} | {sample['nodes']} | {sample['heap']} | {rows} | {sample['doubled']} |",
                    flush=True,
                )
            loaded.reload()
            loaded.wait_for_selector("#workers li")
            loaded.wait_for_timeout(RELOAD_S * 1000)
            loads.append(loaded.evaluate(COUNT))
        browser.close()
    doubled = sum(bool(load["doubled"]) for load in loads)
    print(f"\n{len(loads)} loads of another page, {doubled} of them with a row twice")
    return [*samples, *loads]


def main() -> int:
    """Measure; 1 when something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=10.0)
    options = parser.parse_args()
    said: list[str] = []
    state_dir = harness.STATE_DIR / "dashboard"
    shutil.rmtree(state_dir, ignore_errors=True)
    with (
        harness.service(engine="stub", workers=2, state_dir=state_dir, log_level="info") as service,
        Traffic(service.url, options.rate) as traffic,
    ):
        counted = watch(service.url, options.minutes, said)
    lines = [json.loads(line) for line in Path(state_dir / "log" / "nginx.log").read_text().splitlines()]
    errors = [line["message"] for line in lines if line["level"] in {"error", "critical"}]
    others = [message for message in errors if SEEN_BEFORE not in message]
    beyond = [
        (name, rows) for each in counted for name, rows in each["lists"].items() if rows > BOUNDS.get(name, sys.maxsize)
    ]
    print(f"answers: {dict(traffic.answers)}")
    print(f"nginx: {len(lines)} lines, {len(errors)} errors, {len(others)} of them not about the log of traffic")
    print("\n".join(others[:20]))
    print(f"consoles: {len(said)} messages")
    print("\n".join(said[:20]))
    print(f"lists beyond their bound: {beyond[:5] or 'none'}")
    return int(bool(others or said or beyond or any(each["doubled"] for each in counted)))


if __name__ == "__main__":
    sys.exit(main())
