"""Measure the GPU engine on a card, and compare its scores. It needs no network.

Run: .venv/bin/python bench/gpu.py            measure all, five minutes at most
     .venv/bin/python bench/gpu.py --check    compare all families with transformers, one minute at most
     .venv/bin/python bench/gpu.py --only bge,http
     .venv/bin/python bench/gpu.py --tiny --device cpu    rehearse it where there is no card

Each section runs in a process of its own and is ended when its time is over; what it found by then counts. A section
that misses a card or a package is skipped. Results are printed as they come, and kept as JSON in --out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_models
import gpu_sections
import gpu_shapes
import harness
from gpu_report import MARK, Options, SkippedError, say

SECONDS, CHECK_SECONDS = 300.0, 60.0
"""For everything."""

ENDING_S = 10.0
"""A section that is ended stops what it started; after this it is killed."""

LAST_LINES = 3
"""Of a failed section's log."""


@dataclass(frozen=True)
class Section:
    """A part that can be chosen."""

    limit_s: float
    run: Callable[[Options], None]
    card: bool = False
    """Whether it measures nothing without a card."""


CHECKS = {f"check-{name}": Section(CHECK_SECONDS, partial(gpu_checks.check, name)) for name in gpu_checks.GROUPS}

SECTIONS = {
    "card": Section(20, gpu_sections.card),
    "matmul": Section(20, gpu_sections.matmul),
    "tokenise": Section(30, gpu_sections.tokenise),
    **{
        name: Section(limit_s, partial(gpu_shapes.shape, name))
        for name, limit_s in zip(gpu_models.SHAPES, (50, 70, 60, 80), strict=True)
    },
    "http": Section(90, gpu_sections.http),
    "restart": Section(40, gpu_sections.restart, card=True),
    "cranfield": Section(60, gpu_sections.cranfield),
}
"""In the order in which they run. Their limits add up to more than there is: most take half of theirs."""


def run_here(name: str, options: Options) -> None:
    """Run a section in this process."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("its time was over"))  # what it started is stopped on the way
    section = {**SECTIONS, **CHECKS}[name]
    if section.card and options.device != "cuda":
        say("skipped", why="it needs a card")
        return
    try:
        section.run(options)
    except SkippedError as why:
        say("skipped", why=str(why))
    except ModuleNotFoundError as error:
        say("skipped", why=f"it needs the package {error.name}, which is not installed" if error.name else str(error))


class Runner:
    """Runs sections one after the other, shows and keeps what they say."""

    def __init__(self, options: Options, seconds: float, arguments: list[str]) -> None:
        self._options, self._arguments = options, arguments
        self._ends = time.monotonic() + seconds
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self.outcomes: dict[str, str] = {}
        self.missed = 0
        """Results beyond a limit."""
        options.out.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, limit_s: float) -> None:
        """Run a section for at most its limit and what is left of all."""
        left_s = min(limit_s, self._ends - time.monotonic())
        if left_s < 1:
            self._end(name, "out of time", "not begun: the time for everything is over")
            return
        began, log = time.monotonic(), self._options.out / f"{name}.log"
        command = [sys.executable, __file__, "--child", name, *self._arguments]
        with log.open("w") as errors:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=self._environment(),
                start_new_session=True,
            )
            late = threading.Event()
            timer = threading.Timer(left_s, _end_group, (process, late))
            timer.start()
            skipped = self._follow(name, process)
            status = process.wait()
            timer.cancel()
        took_s = time.monotonic() - began
        if skipped:
            self._end(name, "skipped", skipped)
        elif late.is_set():
            self._end(name, "out of time", f"ended after {took_s:.0f} s")
        elif status:
            self._end(name, "failed", f"{' | '.join(log.read_text().splitlines()[-LAST_LINES:])}; see {log}")
        else:
            self._end(name, "done", f"{took_s:.1f} s")

    def _environment(self) -> dict[str, str]:
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if self._options.device == "cpu" else {}
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": _with_root()}
        return {**os.environ, **offline, **hidden}

    def _follow(self, name: str, process: subprocess.Popen[str]) -> str:
        """Show each line of a section; return why it was skipped, if it was."""
        skipped = ""
        assert process.stdout
        for line in process.stdout:
            if not line.startswith(MARK):
                continue  # a library's own words
            result = json.loads(line.removeprefix(MARK))
            if result["kind"] == "skipped":
                skipped = result["why"]
            else:
                self._show(name, result)
        return skipped

    def _show(self, name: str, result: dict[str, Any]) -> None:
        with self._lock:
            self.missed += result.get("ok") is False
            with (self._options.out / "results.jsonl").open("a") as file:
                file.write(json.dumps({"section": name, **result}) + "\n")
            verdict = {True: "ok ", False: "BAD"}.get(result.get("ok"), "   ")
            kept = [key for key in result if key not in ("kind", "ok") and (verdict != "ok " or "limit" not in key)]
            shown = ", ".join(f"{key} {_short(result[key])}" for key in kept)
            print(f"{time.monotonic() - self._began:6.1f} {verdict} {name}: {result['kind']}: {shown}", flush=True)

    def _end(self, name: str, outcome: str, words: str) -> None:
        self.outcomes[name] = outcome
        self._show(name, {"kind": outcome, "because" if outcome != "done" else "in": words})

    def summary(self) -> str:
        """Return the last line."""
        counts = Counter(self.outcomes.values())
        parts = ", ".join(f"{counts[name]} {name}" for name in ("done", "skipped", "out of time", "failed"))
        took_s = time.monotonic() - self._began
        kept = self._options.out / "results.jsonl"
        return f"{len(self.outcomes)} sections in {took_s:.0f} s: {parts}; {self.missed} results beyond a limit; {kept}"

    @property
    def is_well(self) -> bool:
        """Whether something was done, and nothing failed, ran out of time or was beyond a limit."""
        outcomes = set(self.outcomes.values())
        return "done" in outcomes and not self.missed and not {"failed", "out of time"} & outcomes


def _with_root() -> str:
    return os.pathsep.join(filter(None, [str(harness.ROOT), os.environ.get("PYTHONPATH")]))


def _short(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _end_group(process: subprocess.Popen[str], late: threading.Event) -> None:
    """End a section whose time is over; with force, and all of its process group, if it does not end by itself."""
    late.set()
    process.terminate()
    try:
        process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def has_card() -> bool:
    """Return whether torch sees a card, asked of a process that ends: this one never uses CUDA."""
    asked = [sys.executable, "-c", "import torch; raise SystemExit(not torch.cuda.is_available())"]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare scores, and measure nothing")
    parser.add_argument("--only", help=f"sections, with commas between: {', '.join([*SECTIONS, *CHECKS])}")
    parser.add_argument("--tiny", action="store_true", help="small shapes and few texts: a rehearsal")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="without it, a card where there is one")
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="fp16", help="on a card")
    parser.add_argument(
        "--seconds", type=float, help=f"for everything; else {SECONDS:g}, or {CHECK_SECONDS:g} to check"
    )
    parser.add_argument("--out", type=Path, default=harness.STATE_DIR / "gpu", help="folder of results and logs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = given.device or ("cuda" if has_card() else "cpu")
    if given.device == "cuda" and not given.child and not has_card():
        parser.error("torch sees no card here; rehearse with --device cpu --tiny")
    precision = given.precision if device == "cuda" else "fp32"
    options = Options(device, precision, given.out, tiny=given.tiny)
    if given.child:
        run_here(given.child, options)
        return 0
    chosen = given.only.split(",") if given.only else list(CHECKS if given.check else SECTIONS)
    every = {**SECTIONS, **CHECKS}
    if unknown := [name for name in chosen if name not in every]:
        parser.error(f"{unknown[0]} is no section; there are: {', '.join(every)}")
    arguments = ["--device", device, "--precision", given.precision, "--out", str(given.out)]
    runner = Runner(
        options, given.seconds or (CHECK_SECONDS if given.check else SECONDS), arguments + ["--tiny"] * given.tiny
    )
    # Comparisons run at once: most of their time is imports, and on a card compiling. What is measured runs alone.
    at_once = min(len(chosen), harness.cores()) if set(chosen) <= set(CHECKS) else 1
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda name: runner.run(name, every[name].limit_s), chosen))
    print(runner.summary())
    return 0 if runner.is_well else 1


if __name__ == "__main__":
    sys.exit(main())
