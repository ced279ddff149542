"""How the stack of these settings is, by supervisor, nginx and the pusher's memory. Needs no key; changes nothing."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from webapp.config.settings import Settings
from webapp.domain.errors import SetupError
from webapp.engine import comparison
from webapp.engine.artifact import MANIFEST, artifact_dir
from webapp.stack.liveness import hung
from webapp.stack.local_client import ask, url_of
from webapp.stack.releases import comparison_program, state
from webapp.stack.releases.environment import settings_with
from webapp.stack.releases.roles import Role, idle_runs, idle_that_runs, role_of
from webapp.stack.releases.state import Colors
from webapp.stack.repair import missing
from webapp.stack.supervisor.client import Program, Programs

Health = Literal["serving", "impaired", "down"]

STALE_S = 10.0
"""The pusher writes its memory once a second; what is older says nothing of now."""

TIMEOUT_S = 5.0

PATIENCE_S = 2.0
"""With programs that stand beside the service."""


@dataclass(frozen=True, slots=True)
class Listed(Program):
    """One of supervisor's programs."""

    role: Role


@dataclass(frozen=True, slots=True)
class Status:
    """All of it, at one moment."""

    url: str
    ready: str
    """What /ready says: ready, loading, draining, unavailable; or why nobody answers."""
    model: dict[str, str]
    """`model`, `engine`, `precision`; empty where nothing is prepared."""
    programs: list[Listed]
    workers: list[dict[str, Any]] = field(default_factory=list)
    """Each one's last pulse; empty where the pusher knows none, or is not asked (RERANK_EVENTS)."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The last second: requests/s, documents/s, queue, latencies."""
    troubles: list[str] = field(default_factory=list)
    comparison: str = ""
    """What is known of other engines; empty where the settings name one."""

    @property
    def health(self) -> Health:
        """down: requests are not answered with scores. impaired: they are, but something is not as it should be."""
        if self.ready != "ready":
            return "down"
        return "impaired" if self.troubles else "serving"


def look(settings: Settings) -> Status:
    """Ask everybody; who doesn't answer is part of the answer."""
    colors, damage = _colors(settings)
    programs = _programs(settings, colors)
    workers, figures = _told_by_pusher(settings) if programs else ([], {})  # what it wrote last may be a moment old
    needless = idle_that_runs(settings.run_dir, colors, programs)
    return Status(
        url=url_of(settings),
        ready=_ready(settings),
        model=_model(settings, colors, runs=bool(programs)),
        programs=programs,
        workers=workers,
        figures=figures,
        troubles=[
            *_troubles([each for each in programs if each.role != "idle"], workers, figures),
            *([idle_runs(needless)] if needless else []),
            *([damage] if damage else []),
            *(f"{name} is gone" for name in (missing(settings.run_dir, programs) if programs else [])),
            *(f"{name} does not answer" for name in (hung(settings, patience_s=PATIENCE_S) if programs else [])),
        ],
        comparison=comparison.summary(settings_with(colors.serving.settings) if colors else settings),
    )


def _colors(settings: Settings) -> tuple[Colors | None, str]:
    """What `.colors` says, or why it says nothing."""
    try:
        return state.read(settings.state_dir), ""
    except SetupError as error:
        return None, str(error)


def _troubles(programs: list[Listed], workers: list[dict[str, Any]], figures: dict[str, Any]) -> list[str]:
    troubles = [] if programs else ["supervisor doesn't answer"]
    # STARTING is how supervisor calls the first seconds of a program that runs.
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


def _programs(settings: Settings, colors: Colors | None) -> list[Listed]:
    try:
        programs = Programs(settings.run_dir).all()
    except SetupError:
        return []
    return [
        Listed(each.name, each.state, each.pid, each.uptime_s, role=role_of(each.name, colors))
        for each in programs
        if each.name != comparison_program.PROGRAM or each.pid  # it ends by itself
    ]


def _ready(settings: Settings) -> str:
    try:
        with ask(settings, "/ready", timeout_s=TIMEOUT_S) as reply:
            return str(json.load(reply)["status"])
    except urllib.error.HTTPError as error:
        try:
            return str(json.load(error).get("status", "unavailable"))
        except (ValueError, AttributeError):
            return "unavailable"
    except (OSError, ValueError, KeyError) as error:
        return f"no answer ({getattr(error, 'reason', error)})"


def _model(settings: Settings, colors: Colors | None, *, runs: bool) -> dict[str, str]:
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


def _told_by_pusher(settings: Settings) -> tuple[list[dict[str, Any]], dict[str, Any]]:
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
