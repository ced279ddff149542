"""`python -m webapp.stack.releases.comparison`: measure another engine on an idle service; release a faster one.

It is a supervisor program that ends by itself. `serve` starts it, and it remembers the result (`artifact.Verdict`). A
deploy stops it and starts it again afterwards; an artifact that it has built by then is still there. Long work runs on
a thread of the lowest priority, and in processes that inherit that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from contracts.logging.configure import configure
from webapp.config.paths import program
from webapp.config.resources import free_bytes
from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import (
    MANIFEST,
    VERDICT,
    Manifest,
    Verdict,
    artifact_dir,
    comparison_is_due,
    first_artifact_dir,
    machine,
    read_manifest,
    read_verdict,
    write_json,
)
from webapp.engine.prepare.in_turn import Measure, Outcome, measure_in_turn
from webapp.stack.processes import run_and_read
from webapp.stack.releases import state
from webapp.stack.releases.benchmark import IdleDetector, read_load
from webapp.stack.releases.environment import environment, run_as_release
from webapp.stack.releases.steps import RefusedError
from webapp.stack.supervisor.client import Programs

if TYPE_CHECKING:
    from webapp.engine.runtimes import Candidate

PROGRAM = "compare"
"""Its name in supervisor."""

IN_PROGRESS = "other engines are being compared, while the service is idle"

STOP_TIMEOUT_S = 20.0

SPARE_BYTES = 1536 * 1024**2
"""Memory that must be free before a model is converted beside the service."""

SIZES = 6
"""This many times the artifact's size must be free on top of that."""

LAST_PRIORITY = ("setpriv", "--pdeathsig", "KILL", "ionice", "-c", "3", "-t")
"""Prefix of a command that ends with this process, and uses the disk only when nobody else does."""

log = logging.getLogger("webapp.stack.releases.comparison")  # as a program, it has another __name__


def start_if_due(settings: Settings, programs: Programs) -> None:
    """Start the program if there is something to compare. A failure is ignored: nothing depends on it.

    Args:
        settings: of the active color's release.
        programs: of the stack.
    """
    with contextlib.suppress(SetupError, OSError):
        if comparison_is_due(settings):
            programs.start(PROGRAM)


def stop(programs: Programs) -> None:
    """Stop the program, unless it is this process."""
    if programs.of(PROGRAM).pid != os.getpid():
        programs.stop(PROGRAM, timeout_s=STOP_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Built:
    """An artifact that can be compared."""

    directory: Path
    manifest: Manifest
    ours: bool
    """Whether it was made for the comparison."""


class RivalRefusedError(SetupError):
    """The other engine may not serve this model."""


def compare(
    serving: Built,
    rivals: Sequence[Candidate],
    *,
    build: Callable[[Candidate], Built],
    measure: Callable[[Built, Built], Outcome],
    release: Callable[[Built], int],
) -> None:
    """Compare engines, write the verdict down, and release the artifact of the first rival that is faster.

    What was found about a rival is written down at once: the next start goes on with the others.

    Args:
        serving: the artifact that serves; its directory gets the verdict.
        rivals: other engines and precisions, in the order in which they are tried.
        build: makes a rival's artifact.
        measure: measures two artifacts in turn.
        release: deploys an artifact, and returns the release's number.

    Raises:
        SetupError: there is no result; the program's next start tries again.
    """
    engine = f"{serving.manifest.engine} {serving.manifest.precision}"
    findings = dict(known.findings) if (known := read_verdict(serving.directory)) else {}
    failed: SetupError | None = None
    for rival in (each for each in rivals if str(each) not in findings):
        try:
            other = build(rival)
        except RivalRefusedError as error:
            findings[str(rival)] = f"{rival} can't serve this model: {error}"
        except SetupError as error:
            failed = error
            continue
        else:
            outcome = measure(serving, other)
            found = outcome.summary(engine, str(rival))
            if outcome.rival_is_faster:
                break
            findings[str(rival)] = found
            if other.ours:
                shutil.rmtree(other.directory, ignore_errors=True)
        _write_verdict(serving, IN_PROGRESS, findings=findings)
    else:
        if failed is not None:
            raise failed
        _settle(serving, f"{'; '.join(findings.values())}; {engine} stays")
        return
    summary = "; ".join([*findings.values(), found])
    log.info("%s; it becomes a release", summary)
    reasons = f"{other.manifest.chosen_because}; {summary}"
    write_json(other.directory / MANIFEST, msgspec.structs.replace(other.manifest, chosen_because=reasons))
    _write_verdict(serving, summary, faster=other.directory.name)
    try:
        number = release(other)
    except RefusedError as error:
        _settle(serving, f"{summary}; {engine} stays, for the release was {error}")
    else:
        _settle(serving, f"{summary}; it became release {number}", faster=other.directory.name)


def _settle(serving: Built, result: str, faster: str = "") -> None:
    log.info(result)
    _write_verdict(serving, result, faster=faster, settled=True)


def _write_verdict(
    serving: Built, result: str, *, faster: str = "", settled: bool = False, findings: dict[str, str] | None = None
) -> None:
    """Write the verdict; without findings it keeps those that it has."""
    if findings is None:
        findings = known.findings if (known := read_verdict(serving.directory)) else {}
    verdict = Verdict(summary=result, machine=machine(), faster=faster, settled=settled, findings=findings)
    write_json(serving.directory / VERDICT, verdict)


@dataclass(frozen=True, slots=True)
class Builder:
    """Makes the rival's artifact in a process of the lowest priority, and measures, both while the service is idle."""

    settings: Settings
    serving: Built
    idle: IdleDetector

    def build(self, rival: Candidate) -> Built:
        """Return the rival's artifact, made by settings that name its engine.

        Raises:
            RivalRefusedError: its scores differ too much, or its engine does not know the model.
            SetupError: it can't be built now.
        """
        self.idle.wait()
        with environment({"RERANK_ENGINE": rival.engine, "RERANK_PRECISION": rival.precision}):
            directory = artifact_dir(load_settings())
            known = read_verdict(self.serving.directory)
            ours = not directory.exists() or (known is not None and known.faster == directory.name)
            if ours:  # should we be killed, our next start knows whose it is
                _write_verdict(self.serving, IN_PROGRESS, faster=directory.name)
            manifest = read_manifest(directory)
            if manifest is None or not self._is_same_model(manifest):
                self._check_memory()
                _prepare(rival, again=manifest is not None)
                manifest = read_manifest(directory)
        if manifest is None or not self._is_same_model(manifest):
            raise SetupError("the model's files have changed; run: reranking prepare --again")
        return Built(directory, manifest, ours)

    def measure(self, serving: Built, other: Built) -> Outcome:
        """Measure two artifacts in turn, each with the batches of the settings or else with its own."""
        from webapp.engine.prepare.calibration import DEFAULT_FILE, read_examples  # noqa: PLC0415

        pairs = read_examples(DEFAULT_FILE).calibration
        return measure_in_turn(self._bench(serving, pairs), self._bench(other, pairs), self.idle)

    def _bench(self, built: Built, pairs: list[tuple[str, str]]) -> Measure:
        from webapp.engine.prepare.autotune import Bench  # noqa: PLC0415 - numpy and an engine

        tuning = built.manifest.tuning
        bench = Bench(built.directory, built.manifest, self.settings.engine_threads or tuning.engine_threads, pairs)
        return partial(bench.measure, self.settings.batch_tokens or tuning.batch_tokens)

    def _is_same_model(self, manifest: Manifest) -> bool:
        serving = self.serving.manifest
        return (manifest.model, manifest.revision) == (serving.model, serving.revision)

    def _check_memory(self) -> None:
        from webapp.stack.releases.checks import size_of  # noqa: PLC0415 - it loads all dialects

        needed = SPARE_BYTES + SIZES * size_of(self.serving.directory)
        if (free := free_bytes()) < needed:
            raise SetupError(f"{needed // 1024**2} MB of memory are needed, {free // 1024**2} MB are free")


def _prepare(rival: Candidate, *, again: bool) -> None:
    """Run `reranking prepare` with the environment's settings."""
    command = [*LAST_PRIORITY, *program("webapp", "prepare", *(["--again"] if again else []))]
    code, last = run_and_read(command, partial(log.debug, "%s: %s", rival))
    if code == 1:
        raise RivalRefusedError(last.removeprefix("reranking: "))
    if code:
        raise SetupError(f"preparing {rival} ended with {code}")


def _lower_priority() -> None:
    """Let the calling thread, and all that it starts, use the processor only when nobody else does."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _release(built: Built) -> int:
    """Deploy an artifact, as `reranking deploy` does, and return the release's number."""
    from webapp.stack.releases import deploy  # noqa: PLC0415 - it imports this module
    from webapp.stack.releases.tasks import DeployOptions  # noqa: PLC0415

    values = {"RERANK_FASTER_ARTIFACT": built.directory.name}
    with deploy.undone_on_term():
        return deploy.deploy(DeployOptions(values, made=built.directory.name if built.ours else ""), log.info)


def main() -> None:
    """Compare the engine that serves in the stack of these settings with the others that this machine has."""
    settings = load_settings()
    configure(level=settings.log_level, log_format=settings.log_format, service=PROGRAM)
    colors = state.read(settings.state_dir)
    if colors is None:
        return
    # A deploy by another interpreter and code would be another release.
    run_as_release(colors.serving, lambda python, _: program("webapp.stack.releases.comparison", python=python))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory is short, the kernel kills us first
    with environment(colors.serving.settings):
        settings = load_settings()
        if comparison_is_due(settings):
            _compare(settings)


def _compare(settings: Settings) -> None:
    from webapp.engine.runtimes import Candidate, candidates  # noqa: PLC0415 - it loads numpy

    directory = first_artifact_dir(settings)
    manifest = read_manifest(directory)
    if manifest is None:
        return
    serving = Built(directory, manifest, ours=False)
    engine = Candidate(manifest.engine, manifest.precision)
    rivals = [each for each in candidates(settings, log.debug) if each != engine]
    if not rivals:
        _settle(serving, f"{engine} is the only engine here")
        return
    log.info("%s: compared with %s while the service is idle", engine, ", ".join(map(str, rivals)))
    builder = Builder(settings, serving, IdleDetector(partial(read_load, settings.metrics_socket)))
    with ThreadPoolExecutor(1, initializer=_lower_priority) as background:
        try:
            compare(
                serving,
                rivals,
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
