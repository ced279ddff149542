"""`reranking deploy`, `reranking rollback`: the steps in order, one deploy at a time, and what is written of them.

prepare -> room -> start -> ready -> gate -> canary -> switch -> watch, each undone when a later one fails; then drain,
which can't fail. Whatever is taken is written down before (`state.Attempt`), so that after a `kill -9` the next deploy,
or the next start of the stack, gives it back.
"""

from __future__ import annotations

import datetime as dt
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from contracts import events
from webapp.config.paths import ROOT
from webapp.config.settings import Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.stack.instance import adopt_environment, variables_of
from webapp.stack.releases import comparison_program, freshness, recovery, roles, settings_diff, state
from webapp.stack.releases.environment import settings_with
from webapp.stack.releases.reload import InPlaceReload
from webapp.stack.releases.reporter import DeployReporter, Say
from webapp.stack.releases.state import Colors, Entry, Outcome, Release
from webapp.stack.releases.steps import RefusedError, Step, run
from webapp.stack.releases.tasks import DeployTasks
from webapp.stack.supervisor.client import Programs, program_of
from webapp.telemetry.publisher import Publisher

_SERVED = ("serving", "rolled back")
"""Outcomes after which a release has the clients."""


@dataclass(frozen=True, slots=True)
class DeployOptions:
    """What a deploy is asked for."""

    values: Mapping[str, str] = field(default_factory=dict)
    """Variables to set; an empty value: as the stack's environment has it."""
    canary_percent: int = 0
    canary_s: float = 60.0
    watch_s: float = 5.0
    patience_s: float = 120.0
    """Longest wait until the new color is ready."""
    dry_run: bool = False
    again: bool = False
    """Deploy even if nothing changes."""
    made: str = ""
    """Artifact that was made for this release."""


def deploy(wish: DeployOptions, say: Say, draw: Say | None = None) -> int:
    """Bring a new release to the clients; nothing is started where it would be the one that serves.

    Args:
        wish: what is asked for.
        say: told a line at a time.
        draw: see `DeployReporter`.

    Returns:
        Number of the release that serves.

    Raises:
        SetupError: it was refused, or can't be tried; clients are where they were.
    """
    with _alone(say) as colors:
        old = settings_with(colors.serving.settings)
        values = settings_diff.combined(colors.serving.settings, wish.values)
        new = settings_with(values)
        differing = settings_diff.differing(old, new)
        release = recovery.with_artifact(
            Release(number=colors.last_number + 1, settings=values, python=sys.executable, root=str(ROOT))
        )
        way = settings_diff.way_of(differing, same_artifact=release.artifact == colors.serving.artifact)
        if not (wish.again or differing) and _serves_already(release, colors.serving, old.run_dir, colors.active):
            say(
                f"nothing changes: {colors.active} serves release {colors.serving.number}, {_what(colors.serving)};"
                " --again deploys it all the same"
            )
            return colors.serving.number
        if way == "hup" and not wish.canary_percent:
            light = InPlaceReload(colors, release, colors.active, new, say, wish.patience_s)
            plan = _Plan(light, [Step("room", light.room), Step("reload", light.reload, light.unreload)])
            how = "by HUP, the color stays"
        else:
            plan = _color_plan(DeployTasks(colors, release, colors.idle, new, say, wish.patience_s), wish)
            how = f"by a new color, {colors.active} -> {colors.idle}"
        say(f"release {release.number}, {_what(release)}: {how}")
        if wish.dry_run:
            names = ", ".join(step.name for step in (*plan.steps, *plan.after))
            say(f"would {names}; {plan.stages.room()}; nothing was changed")
            return colors.serving.number
        made = [*colors.made, wish.made] if wish.made else colors.made
        plan.stages.keep(msgspec.structs.replace(colors, last_number=release.number, made=made))
        _carry_out(plan, "serving", say, draw)
    return release.number


def rollback(say: Say, patience_s: float, draw: Say | None = None) -> None:
    """Bring the release before back to the clients.

    Args:
        say: told a line at a time.
        patience_s: longest wait until it is ready.
        draw: see `DeployReporter`.

    Raises:
        SetupError: there is none, or it does not start; clients are where they were.
    """
    with _alone(say) as colors:
        release = colors.before or colors.serves.get(colors.idle)
        if release is None:
            raise SetupError("there is no release before this one")
        settings = settings_with(release.settings)
        if colors.before:
            # HUP keeps the engine, whatever its settings would mean now.
            serving = colors.serving
            release = msgspec.structs.replace(release, artifact=serving.artifact, model=serving.model)
            light = InPlaceReload(colors, release, colors.active, settings, say, patience_s)
            plan = _Plan(light, [Step("reload", light.reload, light.unreload)])
        else:
            plan = _rollback_plan(DeployTasks(colors, release, colors.idle, settings, say, patience_s))
        say(f"back to release {release.number}, {_what(release)}")
        _carry_out(plan, "rolled back", say, draw)


def history(settings: Settings) -> list[str]:
    """What happened, a line each, the latest last; a star marks the one that serves."""
    colors = state.read(settings.state_dir)
    if colors is None:
        raise SetupError(f"no stack has run in {settings.state_dir}; set RERANK_STATE_DIR to the one that is meant")
    served = colors.serving
    mine = [entry for entry in colors.history if entry.number == served.number and entry.outcome in _SERVED]
    lines = []
    for entry in colors.history:
        serves = bool(mine) and entry is mine[-1]
        outcome = "served" if entry.outcome == "serving" and not serves else entry.outcome
        lines.append(
            f"{'*' if serves else ' '} {entry.at}  {entry.number:>4}  {entry.color:<5}  {outcome:<11}"
            f"  {entry.took_s:>6.1f} s  {entry.what}"
        )
    return [*lines, f"{colors.active} serves release {served.number}, {_what(served)}"]


@contextmanager
def undone_on_term() -> Iterator[None]:
    """TERM is as Ctrl-C: what was begun is undone."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done for one release."""

    stages: DeployTasks
    steps: Sequence[Step]
    """Undone when one fails."""
    after: Sequence[Step] = ()
    """When clients have it; nothing is undone for these."""


def _color_plan(stages: DeployTasks, wish: DeployOptions) -> _Plan:
    canary = partial(stages.canary, wish.canary_percent, wish.canary_s)
    steps = [
        Step("prepare", stages.prepare, stages.unprepare),
        Step("room", stages.room),
        Step("start", stages.start, stages.unstart),
        Step("ready", stages.ready),
        Step("gate", stages.gate),
        *([Step("canary", canary, stages.uncanary)] if wish.canary_percent else []),
        Step("switch", stages.switch, stages.unswitch),
        Step("watch", partial(stages.watch, wish.watch_s)),
    ]
    return _Plan(stages, steps, [Step("drain", stages.drain)])


def _rollback_plan(stages: DeployTasks) -> _Plan:
    """It has served before, so it need not show again that it can."""
    steps = [
        Step("artifact", stages.artifact),
        Step("start", stages.start, stages.unstart),
        Step("ready", stages.ready),
        Step("switch", stages.switch, stages.unswitch),
    ]
    return _Plan(stages, steps, [Step("drain", stages.drain)])


def _serves_already(release: Release, serving: Release, run_dir: Path, active: str) -> bool:
    """Whether the process that serves has this release's model and code, and read the settings as they are now."""
    program = Programs(run_dir).of(program_of(active))
    own = variables_of(_supervisord(run_dir))
    code = (serving.python or own["STACK_PYTHON"], serving.root or own["STACK_ROOT"])
    return (
        program.state in {"STARTING", "RUNNING"}
        and release.artifact == serving.artifact
        and (release.python, release.root) == code
        and not freshness.changed_since_start(program.pid)
    )


def _carry_out(plan: _Plan, outcome: Outcome, say: Say, draw: Say | None) -> None:
    """Run the steps, tell of them, write down how it ended."""
    stages, release = plan.stages, plan.stages.release
    what = _what(release)
    began = time.monotonic()
    told = events.Release(number=release.number, color=stages.target, what=what, began=round(time.time(), 3))
    tell = DeployReporter(say, _publisher(stages.settings, stages.target), told, draw)
    stages.more, stages.count = tell.more, tell.count

    def end(outcome: Outcome, what: str) -> None:
        entry = Entry(
            at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            number=release.number,
            color=stages.target,
            outcome=outcome,
            what=what,
            took_s=round(time.monotonic() - began, 2),
        )
        stages.keep(recovery.ended(stages.colors, entry, stages.settings.models_dir, stages.programs))
        tell.end(outcome)

    try:
        run(plan.steps, tell)
        say(f"{stages.target} serves release {release.number} after {time.monotonic() - began:.1f} s")
        run(plan.after, tell)
    except RefusedError as error:
        end("refused", f"{what}: {error}")
        raise
    except BaseException:
        end("interrupted", what)
        raise
    end(outcome, what)


def _publisher(settings: Settings, color: str) -> Publisher | None:
    if not settings.events:
        return None
    publisher = Publisher(settings.events_address, color=color)
    publisher.start()
    return publisher


def _what(release: Release) -> str:
    named = {name.removeprefix("RERANK_"): value for name, value in sorted(release.settings.items())}
    artifact = named.pop("FASTER_ARTIFACT", "")
    faster = " by the engine that is faster here" if artifact and artifact == release.artifact else ""
    settings = " ".join(f"{name}={value}" for name, value in named.items())
    return f"{release.model}{faster}" + (f" with {settings}" if settings else "")


@contextmanager
def _alone(say: Say) -> Iterator[Colors]:
    """One deploy at a time; what a killed one left is put right first. The stack's environment becomes ours."""
    settings = load_settings()
    run_dir = settings.run_dir
    programs = Programs(run_dir)
    programs.of("nginx")  # or there is no stack
    with roles.alone(run_dir):
        comparison_program.stop(programs)
        adopt_environment(_supervisord(run_dir))
        colors = state.read(settings.state_dir)
        if colors is None:
            raise SetupError(f"{settings.state_dir / state.FILE} is missing; restart the stack")
        try:
            yield recovery.heal(colors, load_settings(), programs, say)
        finally:
            if (serving := state.read(settings.state_dir)) is not None:
                comparison_program.start_if_due(settings_with(serving.serving.settings), programs)


def _supervisord(run_dir: Path) -> int:
    try:
        return int((run_dir / "supervisord.pid").read_text())
    except (OSError, ValueError) as error:
        raise SetupError(f"{run_dir / 'supervisord.pid'} can't be read ({error}); restart the stack") from error
