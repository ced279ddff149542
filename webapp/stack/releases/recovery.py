"""The deploy lock, the state that a stack starts with, and the repair after a deploy was killed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from webapp.config.lockfile import is_locked, lock
from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir
from webapp.stack.local_client import ColorApi
from webapp.stack.nginx.traffic_split import point
from webapp.stack.releases import canary, state
from webapp.stack.releases.environment import settings_with
from webapp.stack.supervisor.client import Program, Programs, SupervisorError

LOCK = "deploy.lock"
"""File in the run directory. One deploy, restart or stop at a time holds its lock."""

MOST_SPARE = 3
"""Artifacts of the latest deploys that stay although no color serves them: operators switch between models."""


@contextlib.contextmanager
def deploy_lock(run_dir: Path) -> Iterator[None]:
    """Hold the lock of deploys.

    Raises:
        SetupError: another process holds it.
    """
    with (run_dir / LOCK).open("a+") as file:
        if not lock(file):
            raise SetupError("another deploy runs; wait for its end")
        yield


def running_idle_program(run_dir: Path, colors: state.Colors | None, programs: Iterable[Program]) -> str:
    """Return the name of the idle color's program if it runs and no deploy needs it; else an empty string."""
    if colors is None or is_locked(run_dir / LOCK):
        return ""
    return next((each.name for each in programs if state.role_of(each.name, colors) == "idle" and each.up), "")


def resume(settings: Settings) -> state.Colors:
    """Write and return the state that a stack starts with, before any of its programs runs.

    Raises:
        SetupError: the state is damaged, or a release's settings are no longer valid.
    """
    canary.stop(settings.run_dir)
    colors = state.read(settings.state_dir) or state.begin(settings.color)
    colors = undo_attempt(colors, settings.models_dir)
    # The environment and the model's files may have changed since.
    colors = colors.with_release(colors.active, with_artifact(colors.serving))
    state.write(settings.state_dir, colors)
    return colors


def repair(colors: state.Colors, settings: Settings, programs: Programs, say: Callable[[str], None]) -> state.Colors:
    """Undo a killed deploy: give the active color all requests, stop the idle one and correct the state."""
    attempt = colors.attempt
    if attempt is None:
        return colors
    say(f"the deploy of release {attempt.number} was killed; it is undone first")
    canary.stop(settings.run_dir)
    point(settings.run_dir, colors.active)
    programs.stop(state.program_of(colors.idle), timeout_s=settings.request_timeout_s + 2 * STOP_GRACE_S)
    colors = undo_attempt(colors, settings.models_dir)
    state.write(settings.state_dir, colors)
    if ColorApi(settings, colors.active).release() not in {0, colors.serving.number}:
        # A reload in place was killed half-way. A program that does not run reads its release when it starts.
        with contextlib.suppress(SupervisorError):
            programs.signal(state.program_of(colors.active), "HUP")
    return colors


def finish(colors: state.Colors, entry: state.Entry, models_dir: Path, programs: Programs) -> state.Colors:
    """Return the state after a deploy has ended, with its history entry. Remove artifacts that no color needs."""
    attempt = colors.attempt
    made = list(colors.made)
    if attempt and attempt.artifact and (models_dir / attempt.artifact).exists():
        made.append(attempt.artifact)
    kept = {*made[-MOST_SPARE:]} | {release.artifact for release in (*colors.serves.values(), colors.before) if release}
    for artifact in set(made) - kept:
        remove_artifact(artifact, models_dir)
    with contextlib.suppress(SetupError):  # the stack has ended: its next start undoes the attempt
        if not programs.of(state.program_of(colors.idle)).up:
            attempt = None  # if it still runs, it could not be stopped, and the next deploy tries that again
    made = [artifact for artifact in made if artifact in kept]
    return msgspec.structs.replace(colors, attempt=attempt, made=made).with_entry(entry)


def with_artifact(release: state.Release) -> state.Release:
    """Return the release with the artifact and the model that its settings name now."""
    served = settings_with(release.settings)
    artifact = "" if served.engine == "stub" else artifact_dir(served).name
    return msgspec.structs.replace(release, artifact=artifact, model=served.model)


def undo_attempt(colors: state.Colors, models_dir: Path) -> state.Colors:
    """Undo the record of a killed deploy, and remove its artifact.

    The idle color gets its old release back. A color that became the active one before the kill keeps the new release.
    """
    attempt = colors.attempt
    if attempt and attempt.color == colors.idle:
        remove_artifact(attempt.artifact, models_dir)
        colors = colors.with_release(attempt.color, attempt.replaced)
    return msgspec.structs.replace(colors, attempt=None)


def remove_artifact(name: str, models_dir: Path) -> None:
    """Remove an artifact; do nothing for an empty name. Processes that have its files open keep them."""
    if name:
        shutil.rmtree(models_dir / name, ignore_errors=True)
