"""`python -m webapp.stack.releases.compare`: measure another engine on an idle service; a faster one is released.

A program of supervisor's that ends. It is started when a stack serves, and notes what it found (`artifact.Verdict`).
A deploy ends it, and starts it again afterwards; what it has built by then is still there. What takes long runs on a
thread of the lowest priority, and in processes that inherit that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from contracts.logging.configure import configure
from webapp.config.settings import Settings, load_settings
from webapp.config.source_tree import ROOT, program
from webapp.domain.errors import SetupError
from webapp.engine import comparison
from webapp.engine.artifact import (
    MANIFEST,
    VERDICT,
    Manifest,
    Verdict,
    artifact_dir,
    first_artifact_dir,
    machine,
    read_manifest,
    read_verdict,
    write_json,
)
from webapp.stack.releases import memory_budget, state
from webapp.stack.releases.comparison_program import PROGRAM
from webapp.stack.releases.environment import environment
from webapp.stack.releases.idleness import Idleness, ask_exporter
from webapp.stack.releases.steps import RefusedError
from webapp.stack.releases.trial import Idle, Measure, Outcome, measure_in_turn

if TYPE_CHECKING:
    from webapp.engine.prepare.candidates import Candidate

SPARE_BYTES = 1536 * 1024**2
"""Memory that must be free before a model is converted beside the service."""

SIZES = 6
"""So many times the artifact's own size come on top of that."""

LAST_PRIORITY = ("setpriv", "--pdeathsig", "KILL", "ionice", "-c", "3", "-t")
"""Before a command that must not outlive us, and has the disk when nobody else wants it."""

_RUNS_AS_RELEASE = "STACK_COMPARES"

log = logging.getLogger("webapp.stack.releases.compare")


@dataclass(frozen=True, slots=True)
class Built:
    """An artifact that may be compared."""

    directory: Path
    manifest: Manifest
    ours: bool
    """It was made for the comparison."""


class RivalRefusedError(SetupError):
    """The other engine may not serve this model."""


def compare(
    serving: Built,
    rival: Candidate,
    *,
    build: Callable[[Candidate], Built],
    measure: Callable[[Built, Built], Outcome],
    release: Callable[[Built], int],
) -> None:
    """Compare, write down what was found, and make a release of what is faster.

    Args:
        serving: the artifact that serves; gets the verdict.
        rival: another engine.
        build: makes its artifact.
        measure: measures two artifacts in turn.
        release: brings an artifact to the clients, and returns the release's number.

    Raises:
        SetupError: nothing was found out; the next start tries again.
    """
    own = f"{serving.manifest.engine} {serving.manifest.precision}"
    try:
        other = build(rival)
    except RivalRefusedError as error:
        _settle(serving, f"{own} is the only engine here for this model: {error}")
        return
    outcome = measure(serving, other)
    said = outcome.said(own, str(rival))
    if not outcome.rival_is_faster:
        if other.ours:
            shutil.rmtree(other.directory, ignore_errors=True)
        _settle(serving, f"{said}; {serving.manifest.engine} stays")
        return
    log.info("%s; it becomes a release", said)
    _say_why(other, said)
    _note(serving, said, faster=other.directory.name, settled=False)
    try:
        number = release(other)
    except RefusedError as error:
        _settle(serving, f"{said}; {serving.manifest.engine} stays, for the release was {error}")
    else:
        _settle(serving, f"{said}; it became release {number}", faster=other.directory.name)


def _settle(serving: Built, said: str, faster: str = "") -> None:
    log.info(said)
    _note(serving, said, faster=faster, settled=True)


def _note(serving: Built, said: str, *, faster: str, settled: bool) -> None:
    verdict = Verdict(summary=said, machine=machine(), faster=faster, settled=settled)
    write_json(serving.directory / VERDICT, verdict)


def _say_why(built: Built, said: str) -> None:
    """Add to the artifact's manifest why it is going to serve."""
    manifest = msgspec.structs.replace(built.manifest, chosen_because=f"{built.manifest.chosen_because}; {said}")
    write_json(built.directory / MANIFEST, manifest)


class Builder:
    """Makes the rival's artifact, in a process of the lowest priority, and measures; both while the service is idle."""

    def __init__(self, settings: Settings, serving: Built, idle: Idle) -> None:
        self._settings = settings
        self._serving = serving
        self._idle = idle

    def build(self, rival: Candidate) -> Built:
        """The rival's artifact, as settings that name its engine have it.

        Raises:
            RivalRefusedError: it does not pass the gate, or its engine does not know the model.
            SetupError: it can't be built now.
        """
        self._idle.wait()
        with environment({"RERANK_ENGINE": rival.engine, "RERANK_PRECISION": rival.precision}):
            directory = artifact_dir(load_settings())
            known = read_verdict(self._serving.directory)
            ours = not directory.exists() or (known is not None and known.faster == directory.name)
            if ours:  # whoever comes after us knows whose it is
                said = "other engines are being compared, while the service is idle"
                _note(self._serving, said, faster=directory.name, settled=False)
            manifest = read_manifest(directory)
            if manifest is None or not self._is_the_same_model(manifest):
                self._check_memory()
                _prepare(rival, again=manifest is not None)
                manifest = read_manifest(directory)
        if manifest is None or not self._is_the_same_model(manifest):
            raise SetupError("the model's files have changed; run: reranking prepare --again")
        return Built(directory, manifest, ours)

    def measure(self, serving: Built, other: Built) -> Outcome:
        """Measure two artifacts in turn, each with its own batches, or those that the settings name."""
        from webapp.engine.prepare.calibration import DEFAULT_FILE, read_examples  # noqa: PLC0415

        pairs = read_examples(DEFAULT_FILE).tuning
        return measure_in_turn(self._bench(serving, pairs), self._bench(other, pairs), self._idle)

    def _bench(self, built: Built, pairs: list[tuple[str, str]]) -> Measure:
        from webapp.engine.prepare.autotune import Bench  # noqa: PLC0415 - numpy and an engine

        tuning = built.manifest.tuning
        bench = Bench(built.directory, built.manifest, self._settings.engine_threads or tuning.engine_threads)
        return partial(bench.measure, bench.batches(pairs, self._settings.batch_tokens or tuning.batch_tokens))

    def _is_the_same_model(self, manifest: Manifest) -> bool:
        serving = self._serving.manifest
        return (manifest.model, manifest.revision) == (serving.model, serving.revision)

    def _check_memory(self) -> None:
        needed = SPARE_BYTES + SIZES * memory_budget.size_of(self._serving.directory)
        if (free := memory_budget.free_bytes()) < needed:
            raise SetupError(f"{needed // 1024**2} MB of memory are needed, {free // 1024**2} MB are free")


def _prepare(rival: Candidate, *, again: bool) -> None:
    """Run `reranking prepare` with the environment's settings."""
    command = [*LAST_PRIORITY, *program("webapp", "prepare", *(["--again"] if again else []))]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    last = ""
    with child:
        for line in child.stdout or ():
            last = line.strip()
            log.debug("%s: %s", rival, last)
    if child.returncode == 1:
        raise RivalRefusedError(last.removeprefix("reranking: "))
    if child.returncode:
        raise SetupError(f"preparing {rival} ended with {child.returncode}")


def _step_back() -> None:
    """Let the calling thread, and all that it starts, run when nobody else wants to."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _release(built: Built) -> int:
    """Deploy an artifact, as `reranking deploy` does."""
    from webapp.stack.releases import deploy  # noqa: PLC0415 - it imports this module

    values = {"RERANK_FASTER_ARTIFACT": built.directory.name}
    with deploy.undone_on_term():
        return deploy.deploy(deploy.DeployOptions(values, made=built.directory.name if built.ours else ""), log.info)


def _become(release: state.Release) -> None:
    """Run as the interpreter and the code of the release that serves: ours would be another release."""
    python, root = release.python or sys.executable, release.root or str(ROOT)
    if (python, root) != (sys.executable, str(ROOT)) and _RUNS_AS_RELEASE not in os.environ:
        os.environ[_RUNS_AS_RELEASE] = "yes"
        os.chdir(root)
        os.execv(python, program("webapp.stack.releases.compare", python=python))  # noqa: S606 # nosec B606 - as `launch` does


def main() -> None:
    """Compare what serves in the stack of these settings with the other engine that has its precision."""
    settings = load_settings()
    configure(level=settings.log_level, log_format=settings.log_format, service=PROGRAM)
    colors = state.read(settings.state_dir)
    if colors is None:
        return
    _become(colors.serving)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory is short, we go first
    with environment(colors.serving.settings):
        settings = load_settings()
        if not comparison.is_due(settings):
            return
        _compare(settings)


def _compare(settings: Settings) -> None:
    from webapp.engine.prepare.candidates import candidates  # noqa: PLC0415 - OpenVINO is loaded

    directory = first_artifact_dir(settings)
    manifest = read_manifest(directory)
    if manifest is None:
        return
    serving = Built(directory, manifest, ours=False)
    rivals = [
        each
        for each in candidates(settings, log.debug)
        if each.precision == manifest.precision and each.engine != manifest.engine
    ]
    if not rivals:
        _settle(serving, f"{manifest.engine} {manifest.precision}: no other engine computes in that precision here")
        return
    log.info("%s is compared with %s %s while the service is idle", rivals[0], manifest.engine, manifest.precision)
    builder = Builder(settings, serving, Idleness(partial(ask_exporter, settings.metrics_socket)))
    with ThreadPoolExecutor(1, initializer=_step_back) as background:
        try:
            compare(
                serving,
                rivals[0],
                build=lambda rival: background.submit(builder.build, rival).result(),
                measure=lambda one, other: background.submit(builder.measure, one, other).result(),
                release=_release,
            )
        except SetupError as error:
            log.warning("engines could not be compared: %s; the next start tries again", error)
        except KeyboardInterrupt:
            log.info("stopped; the release that was begun is undone")


if __name__ == "__main__":
    main()
