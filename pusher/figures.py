"""Rates and latencies over the last seconds, a point a second for the plots. PURE."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from contracts.events import OK, Pulse

WINDOW_S = 10.0
"""Latency percentiles and the badges (shedding, degraded) look back this far."""

MOST_LATENCIES = 4096
"""Latencies looked at; at higher rates the window is shorter."""

POINTS = 300
"""Seconds of plots."""

SHARES = (50, 95, 99)


class Figures:
    """Counts, percentiles and points."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        """Ended requests by status, since the memory begins."""
        self.points: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._latencies: deque[tuple[float, float]] = deque(maxlen=MOST_LATENCIES)
        self._shed: deque[tuple[float, float]] = deque(maxlen=MOST_LATENCIES)
        self._degraded_at = 0.0
        self._ended = 0

    def count(self, state: dict[str, Any], now: float) -> None:
        """Count a request that ended."""
        status = state["status"]
        self.totals[status] += 1
        if status == "shed":
            self._shed.append((now, state["latency_ms"]))
            return
        if state["kind"] == "refused":  # nothing was ranked
            return
        self._ended += 1
        if status == OK:
            self._latencies.append((now, state["latency_ms"]))
        if state.get("degraded"):
            self._degraded_at = now

    def add_point(self, pulses: Sequence[Pulse], now: float) -> dict[str, Any]:
        """Return the point of the second that just passed."""
        for kept in (self._latencies, self._shed):
            while kept and kept[0][0] < now - WINDOW_S:
                kept.popleft()
        latencies = sorted(latency for _, latency in self._latencies)
        seconds = max(0.5, now - self.points[-1]["t"]) if self.points else 1.0
        point = {
            "t": round(now, 3),
            "pairs_per_s": round(sum(pulse.pairs_per_s for pulse in pulses), 1),
            "requests_per_s": round(self._ended / min(seconds, WINDOW_S), 2),
            "queue_pairs": sum(pulse.queue_pairs for pulse in pulses),
            "queue_tokens": sum(pulse.queue_tokens for pulse in pulses),
            "in_flight": sum(pulse.in_flight for pulse in pulses),
            "shed": len(self._shed),
            "degraded": now - self._degraded_at < WINDOW_S or any(pulse.degraded for pulse in pulses),
            **{f"p{share}": percentile(latencies, share) for share in SHARES},
        }
        self._ended = 0
        self.points.append(point)
        return point


def percentile(ordered: Sequence[float], share: int) -> float | None:
    """Return the value that `share` percent of the values do not exceed; None where there is none."""
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)], 1)
