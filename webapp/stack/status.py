"""The state of a stack, by supervisor, nginx and the pusher's memory. Needs no key; changes nothing."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine.artifact import MANIFEST, artifact_dir, comparison_summary
from webapp.stack.local_client import ask, pusher_answers, url_of
from webapp.stack.releases import state
from webapp.stack.releases.comparison import PROGRAM
from webapp.stack.releases.environment import settings_with
from webapp.stack.releases.recovery import running_idle_program
from webapp.stack.repair import hung, missing
from webapp.stack.supervisor.client import Program, Programs

Health = Literal["serving", "impaired", "down"]

STALE_S = 10.0
"""Age at which the pusher's memory, written once a second, no longer counts."""

TIMEOUT_S = 5.0

SIDECAR_TIMEOUT_S = 2.0
"""Longest wait for the pusher and the metrics exporter."""


@dataclass(frozen=True, slots=True)
class Listed(Program):
    """A program of supervisor, with its role."""

    role: state.Role


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the stack at one moment."""

    url: str
    ready: str
    """The status of /ready: ready, loading, draining, unavailable; or why there is no answer."""
    model: dict[str, str]
    """`model`, `engine`, `precision`; empty if none is prepared."""
    programs: list[Listed]
    workers: list[dict[str, Any]] = field(default_factory=list)
    """Each worker's last pulse; empty if the stack's pusher knows none, or gets no events (RERANK_EVENTS)."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Figures of the last second: requests/s, documents/s, queue, latencies."""
    troubles: list[str] = field(default_factory=list)
    comparison: str = ""
    """The outcome of the comparison of engines; empty if the settings name one."""

    @property
    def health(self) -> Health:
        """down: requests are not answered with scores. impaired: they are, but something is not as it should be."""
        if self.ready != "ready":
            return "down"
        return "impaired" if self.troubles else "serving"


def inspect(settings: Settings) -> Status:
    """Return the state of the stack; a program that does not answer is part of it."""
    colors, damage = _colors(settings)
    programs = _programs(settings, colors)
    # Without programs the pusher's memory is of a stack that has ended.
    workers, figures = _pusher_memory(settings) if programs else ([], {})
    needless = running_idle_program(settings.run_dir, colors, programs)
    return Status(
        url=url_of(settings),
        ready=_ready(settings),
        model=_model(settings, colors, runs=bool(programs)),
        programs=programs,
        workers=workers,
        figures=figures,
        troubles=[
            *_troubles([each for each in programs if each.role != "idle"], workers, figures),
            *([state.idle_warning(needless)] if needless else []),
            *([damage] if damage else []),
            *(f"{name} is gone" for name in (missing(settings.run_dir, programs) if programs else [])),
            *(f"{name} does not answer" for name in (hung(settings, SIDECAR_TIMEOUT_S) if programs else [])),
            *([] if pusher_answers(settings, SIDECAR_TIMEOUT_S) else [f"{settings.pusher_url} does not answer"]),
        ],
        comparison=comparison_summary(settings_with(colors.serving.settings) if colors else settings),
    )


def _colors(settings: Settings) -> tuple[state.Colors | None, str]:
    """Return the content of `.colors`, or why it can't be read."""
    try:
        return state.read(settings.state_dir), ""
    except SetupError as error:
        return None, str(error)


def _troubles(programs: list[Listed], workers: list[dict[str, Any]], figures: dict[str, Any]) -> list[str]:
    troubles = [] if programs else ["supervisor doesn't answer"]
    # STARTING is supervisor's word for the first seconds of a program that runs.
    troubles += [f"{each.name} is {each.state}" for each in programs if each.state not in {"RUNNING", "STARTING"}]
    for worker in workers:
        if worker.get("breaker", "closed") != "closed":
            troubles.append(f"the breaker of worker {worker['pid']} is {worker['breaker']}")
        if worker["state"] == "lost":
            troubles.append(f"worker {worker['pid']} is lost")
    if figures.get("degraded"):
        troubles.append("answers are degraded")
    if figures.get("shed"):
        troubles.append(f"{figures['shed']} requests were shed in the last seconds")
    return troubles


def _programs(settings: Settings, colors: state.Colors | None) -> list[Listed]:
    try:
        programs = Programs(settings.run_dir).all()
    except SetupError:
        return []
    return [
        Listed(each.name, each.state, each.pid, each.uptime_s, role=state.role_of(each.name, colors))
        for each in programs
        if each.name != PROGRAM or each.pid  # it ends by itself
    ]


def _ready(settings: Settings) -> str:
    try:
        with ask(settings, "/ready", timeout_s=TIMEOUT_S) as reply:
            return str(json.load(reply)["status"])
    except urllib.error.HTTPError as error:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.load(error)["status"])
        return "unavailable"
    except (OSError, ValueError, KeyError) as error:
        return f"no answer ({getattr(error, 'reason', error)})"


def _model(settings: Settings, colors: state.Colors | None, *, runs: bool) -> dict[str, str]:
    if colors and runs:  # what it was started with, whatever was edited since
        artifact = colors.serving.artifact
    else:
        served = settings_with(colors.serving.settings) if colors else settings
        artifact = "" if served.engine == "stub" else artifact_dir(served).name
    if not artifact:
        return {"model": "stub", "engine": "stub", "precision": "none"}
    try:
        manifest = msgspec.json.decode((settings.models_dir / artifact / MANIFEST).read_bytes())
        return {name: manifest[name] for name in ("model", "engine", "precision")}
    except (OSError, ValueError, KeyError):
        return {}


def _pusher_memory(settings: Settings) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        path = settings.run_dir / "pusher.json"
        memory = json.loads(path.read_text())
        if time.time() - path.stat().st_mtime > STALE_S:  # the pusher's own clock does not jump with the system's
            return [], {}
        # What an event doesn't carry is as usual.
        workers = [{"breaker": "closed", **worker} for worker in memory["workers"] if worker["state"] != "down"]
        return workers, memory["points"][-1] if memory["points"] else {}
    except (OSError, ValueError, KeyError):
        return [], {}
