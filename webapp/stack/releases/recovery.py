"""What a stack begins with, and what is put right after a deploy was killed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import artifact_dir
from webapp.stack.nginx.traffic_split import point
from webapp.stack.releases import canary, state
from webapp.stack.releases.color_api import ColorApi
from webapp.stack.releases.environment import settings_with
from webapp.stack.releases.state import Colors, Entry, Release
from webapp.stack.supervisor.client import Programs, SupervisorError, program_of

MOST_SPARE = 3
"""Artifacts that deploys made last stay, even if no color serves them: some go back and forth between models."""


def resume(settings: Settings) -> Colors:
    """The state that a stack starts with; nothing runs yet.

    Raises:
        SetupError: the state is damaged, or a release's settings are no longer good.
    """
    canary.stop(settings.run_dir)
    colors = state.read(settings.state_dir) or state.begin(settings.color)
    colors = give_back(colors, settings.models_dir)
    # The environment may have changed since, and the model's files too.
    active = with_artifact(colors.serving)
    colors = colors.with_release(colors.active, active)
    state.write(settings.state_dir, colors)
    return colors


def heal(colors: Colors, settings: Settings, programs: Programs, say: Callable[[str], None]) -> Colors:
    """After a deploy was killed: clients at the active color, the other one stopped, the record undone."""
    attempt = colors.attempt
    if attempt is None:
        return colors
    say(f"the deploy of release {attempt.number} was killed; what it left is put away")
    canary.stop(settings.run_dir)
    point(settings.run_dir, colors.active)
    patience_s = settings.request_timeout_s + 2 * STOP_GRACE_S
    programs.stop(program_of(colors.idle), patience_s=patience_s)
    colors = give_back(colors, settings.models_dir)
    state.write(settings.state_dir, colors)
    if ColorApi(settings, colors.active).release() not in {0, colors.serving.number}:
        with contextlib.suppress(SupervisorError):  # what does not run reads its release when it starts
            programs.signal(program_of(colors.active), "HUP")  # a change by HUP was killed before it said so
    return colors


def ended(colors: Colors, entry: Entry, models_dir: Path, programs: Programs) -> Colors:
    """When a deploy ended, however: with its line of history, and without artifacts that nobody serves any more."""
    attempt = colors.attempt
    made = list(colors.made)
    if attempt and attempt.artifact and (models_dir / attempt.artifact).exists():
        made.append(attempt.artifact)
    kept = {*made[-MOST_SPARE:]} | {release.artifact for release in (*colors.serves.values(), colors.before) if release}
    for artifact in set(made) - kept:
        remove_artifact(artifact, models_dir)
    with contextlib.suppress(SetupError):  # the stack has ended: its next start puts all away
        if not programs.of(program_of(colors.idle)).up:
            attempt = None  # else it could not be stopped: the next deploy tries again
    made = [artifact for artifact in made if artifact in kept]
    return msgspec.structs.replace(colors, attempt=attempt, made=made).with_entry(entry)


def with_artifact(release: Release) -> Release:
    """The release with what its settings mean now."""
    served = settings_with(release.settings)
    artifact = "" if served.engine == "stub" else artifact_dir(served).name
    return msgspec.structs.replace(release, artifact=artifact, model=served.model)


def give_back(colors: Colors, models_dir: Path) -> Colors:
    """After a deploy was killed: its record undone, its artifact removed unless the switch had been made."""
    attempt = colors.attempt
    if attempt is None:
        return colors
    if attempt.color == colors.idle:
        remove_artifact(attempt.artifact, models_dir)
    return state.settled(colors)


def remove_artifact(name: str, models_dir: Path) -> None:
    """Remove an artifact; an empty name is none. Who has its files open keeps them."""
    if name:
        shutil.rmtree(models_dir / name, ignore_errors=True)
