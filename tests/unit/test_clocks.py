"""The system's clock may be set while we run: what waits, counts or expires goes by clocks that only run."""

import re
import time
from pathlib import Path

from pusher import clock

ROOT = Path(__file__).resolve().parents[2]

WAIT_OR_COUNT = [
    *("pusher", "webapp/scheduling", "webapp/cache", "webapp/telemetry"),
    *("service", "scoring", "guard", "bootstrap", "concurrency", "worker", "recycling", "descriptors", "stack"),
    *("draining", "offspring", "premises", "api/request_context"),
]
"""Folders, and modules of webapp."""


def test_nothing_is_measured_by_the_time_of_day():
    of_the_day = re.compile(r"time\.time\(|datetime\.(now|utcnow|today)\(")
    paths = [ROOT / each if (ROOT / each).is_dir() else ROOT / "webapp" / f"{each}.py" for each in WAIT_OR_COUNT]
    sources = [source for path in paths for source in ([path] if path.suffix else path.rglob("*.py"))]
    found = [source.name for source in sources if of_the_day.search(source.read_text())]
    assert found == ["clock.py"], "which asks once, at the start"


def test_the_pushers_clock_does_not_jump_with_the_systems(monkeypatch):
    before = clock.now()
    assert abs(before - time.time()) < 60
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 0 <= clock.now() - before < 60
