"""`reranking deploy` and `reranking rollback`: their steps in order, and the history.

prepare -> room -> start -> ready -> gate -> canary -> switch -> watch, each undone when a later one fails; then drain,
which is not undone. A deploy writes down what it takes before it takes it (`state.Attempt`), so that after a `kill -9`
the next deploy, or the next start of the stack, gives it back.
"""

from __future__ import annotations

import datetime as dt
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from contracts import events
from webapp.config.paths import ROOT
from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.stack.instance import adopt_environment, variables_of
from webapp.stack.releases import comparison, recovery, settings_diff, state
from webapp.stack.releases.environment import settings_with
from webapp.stack.releases.steps import DeployReporter, RefusedError, Say, Step, run
from webapp.stack.releases.tasks import DeployOptions, DeployTasks, InPlaceReload
from webapp.stack.supervisor.client import Programs

NEW_COLOR = ("prepare", "room", "start", "ready", "gate", "canary", "switch", "watch")
"""The steps that a release takes to the clients; the canary only if it is asked for."""

OLD_RELEASE = ("artifact", "start", "ready", "switch")
"""Fewer checks: the release has served before."""


def deploy(options: DeployOptions, say: Say, draw: Say | None = None) -> int:
    """Bring a new release to the clients; start nothing if that very release serves already.

    Args:
        options: what to deploy, and how.
        say: called with each line.
        draw: see `DeployReporter`.

    Returns:
        Number of the release that serves.

    Raises:
        SetupError: the release was refused or can't be tried; the old one serves.
    """
    with _deploy_lock(say) as colors:
        old = settings_with(colors.serving.settings)
        values = settings_diff.combined(colors.serving.settings, options.values)
        new = settings_with(values)
        differing = settings_diff.differing(old, new)
        release = recovery.with_artifact(
            state.Release(number=colors.last_number + 1, settings=values, python=sys.executable, root=str(ROOT))
        )
        way = settings_diff.way_of(differing, same_artifact=release.artifact == colors.serving.artifact)
        if not (options.again or differing) and _serves_already(release, colors, Programs(old.run_dir)):
            say(
                f"nothing changes: {colors.active} serves release {colors.serving.number}, {_describe(colors.serving)};"
                " --again deploys it all the same"
            )
            return colors.serving.number
        if way == "hup" and not options.canary_percent:
            tasks: DeployTasks = InPlaceReload(colors, release, colors.active, new, options)
            steps, how = tasks.steps("room", "reload"), "by HUP, the color stays"
        else:
            tasks = DeployTasks(colors, release, colors.idle, new, options)
            steps = tasks.steps(*(name for name in NEW_COLOR if name != "canary" or options.canary_percent))
            how = f"by a new color, {colors.active} -> {colors.idle}"
        say(f"release {release.number}, {_describe(release)}: {how}")
        if options.dry_run:
            names = ", ".join([*(step.name for step in steps), *tasks.afterwards])
            say(f"would {names}; {tasks.room()}; nothing was changed")
            return colors.serving.number
        made = [*colors.made, options.made] if options.made else colors.made
        tasks.save(msgspec.structs.replace(colors, last_number=release.number, made=made))
        _carry_out(tasks, steps, "serving", say, draw)
    return release.number


def rollback(say: Say, ready_timeout_s: float, draw: Say | None = None) -> None:
    """Bring the previous release back to the clients.

    Args:
        say: called with each line.
        ready_timeout_s: longest wait until it is ready.
        draw: see `DeployReporter`.

    Raises:
        SetupError: there is none, or it does not start; the current release serves.
    """
    with _deploy_lock(say) as colors:
        release = colors.before or colors.serves.get(colors.idle)
        if release is None:
            raise SetupError("there is no release before this one")
        settings, options = settings_with(release.settings), DeployOptions(ready_timeout_s=ready_timeout_s)
        if colors.before:
            # HUP keeps the engine, even if the settings name another one by now.
            serving = colors.serving
            release = msgspec.structs.replace(release, artifact=serving.artifact, model=serving.model)
            tasks: DeployTasks = InPlaceReload(colors, release, colors.active, settings, options)
            steps = tasks.steps("reload")
        else:
            tasks = DeployTasks(colors, release, colors.idle, settings, options)
            steps = tasks.steps(*OLD_RELEASE)
        say(f"back to release {release.number}, {_describe(release)}")
        _carry_out(tasks, steps, "rolled back", say, draw)


def history(settings: Settings) -> list[str]:
    """Return the history, a line a deploy, the latest last; a star marks the release that serves."""
    colors = state.read(settings.state_dir)
    if colors is None:
        raise SetupError(f"no stack has run in {settings.state_dir}; set RERANK_STATE_DIR to the one that is meant")
    number, began = colors.serving.number, {"serving", "rolled back"}
    latest = [entry for entry in colors.history if entry.number == number and entry.outcome in began][-1:]
    lines = []
    for entry in colors.history:
        serves = entry in latest
        outcome = "served" if entry.outcome == "serving" and not serves else entry.outcome
        lines.append(
            f"{'*' if serves else ' '} {entry.at}  {entry.number:>4}  {entry.color:<5}  {outcome:<11}"
            f"  {entry.took_s:>6.1f} s  {entry.what}"
        )
    return [*lines, f"{colors.active} serves release {number}, {_describe(colors.serving)}"]


@contextmanager
def undone_on_term() -> Iterator[None]:
    """Raise KeyboardInterrupt at TERM, so that what was begun is undone, as at Ctrl-C."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _serves_already(release: state.Release, colors: state.Colors, programs: Programs) -> bool:
    """Return whether the serving process has the release's model and code, and has read the current settings."""
    serving, program = colors.serving, programs.of(state.program_of(colors.active))
    own = variables_of(programs.supervisord_pid())
    code = (serving.python or own["STACK_PYTHON"], serving.root or own["STACK_ROOT"])
    return (
        program.state in {"STARTING", "RUNNING"}
        and release.artifact == serving.artifact
        and (release.python, release.root) == code
        and not settings_diff.changed_since_start(program.pid)
    )


def _carry_out(tasks: DeployTasks, steps: Sequence[Step], outcome: state.Outcome, say: Say, draw: Say | None) -> None:
    """Run the steps, report them, and write down how the deploy ended."""
    number, what, began = tasks.release.number, _describe(tasks.release), time.monotonic()
    event = events.Release(number=number, color=tasks.target, what=what, began=round(time.time(), 3))
    tasks.reporter = reporter = DeployReporter(tasks.settings, event, say, draw)

    def end(outcome: state.Outcome, what: str) -> None:
        entry = state.Entry(
            at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            number=number,
            color=tasks.target,
            outcome=outcome,
            what=what,
            took_s=round(time.monotonic() - began, 2),
        )
        tasks.save(recovery.finish(tasks.colors, entry, tasks.settings.models_dir, tasks.programs))
        reporter.end(outcome)

    try:
        run(steps, reporter.step)
        say(f"{tasks.target} serves release {number} after {time.monotonic() - began:.1f} s")
        run(tasks.steps(*tasks.afterwards), reporter.step)
    except RefusedError as error:
        end("refused", f"{what}: {error}")
        raise
    except BaseException:
        end("interrupted", what)
        raise
    end(outcome, what)


def _describe(release: state.Release) -> str:
    """Return the release's model and settings in words."""
    named = {name.removeprefix("RERANK_"): value for name, value in sorted(release.settings.items())}
    artifact = named.pop("FASTER_ARTIFACT", "")
    faster = " by the engine that is faster here" if artifact and artifact == release.artifact else ""
    settings = " ".join(f"{name}={value}" for name, value in named.items())
    return f"{release.model}{faster}" + (f" with {settings}" if settings else "")


@contextmanager
def _deploy_lock(say: Say) -> Iterator[state.Colors]:
    """Hold the deploy lock, and yield the state after the repair of a killed deploy.

    The stack's environment becomes ours. A comparison of engines is stopped, and started again in the end if it is due.
    """
    settings = load_settings()
    programs = Programs(settings.run_dir)
    programs.of("nginx")  # raises where no stack runs
    with recovery.deploy_lock(settings.run_dir):
        comparison.stop(programs)
        adopt_environment(programs.supervisord_pid())
        colors = state.read(settings.state_dir)
        if colors is None:
            raise SetupError(f"{settings.state_dir / state.FILE} is missing; restart the stack")
        try:
            yield recovery.repair(colors, load_settings(), programs, say)
        finally:
            if (now := state.read(settings.state_dir)) is not None:
                comparison.start_if_due(settings_with(now.serving.settings), programs)
