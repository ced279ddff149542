"""What a deploy changes, and which way that can go. PURE but for reading a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from webapp.config import sources
from webapp.config.settings import Settings
from webapp.domain.errors import SetupError

LIGHT = frozenset(
    {
        "workers",
        "engine_threads",
        "batch_tokens",
        "cache_mb",
        "max_ongoing_requests",
        "max_queued_pairs",
        "max_queued_tokens",
        "max_documents",
        "max_batch_requests",
        "max_body_values",
        "max_body_memory_mb",
        "degraded",
        "engine_stall_s",
        "max_rss_mb",
        "strict_model",
        "served_model_name",
        "events",
        "events_text",
        "log_level",
    }
)
"""Settings that new workers of the same master take up: HUP does it."""

OF_THE_ARTIFACT = frozenset({"model", "engine", "precision", "max_length_tokens", "faster_artifact"})
"""Settings that make another artifact, with all whose names begin with `gate_`: a new color does it."""

_OURS = frozenset({"color", "release"})

Way = Literal["hup", "color"]


def read_assignments(given: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE -> RERANK_NAME: value; an empty value: as the stack's environment has it.

    Raises:
        SetupError: it is no assignment, or there is no such setting.
    """
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise SetupError(f"{text!r} is not NAME=VALUE, such as WORKERS=2")
        found[_variable(name)] = value.strip()
    return found


def read_file(path: Path) -> dict[str, str]:
    """The same from a settings file.

    Raises:
        SetupError: as above, or the file can't be read.
    """
    values = sources.read_file(path.expanduser())
    try:
        return {_variable(name): _as_text(value) for name, value in values.items()}
    except SetupError as error:
        raise SetupError(f"{path}: {error}") from None


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def combined(release: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """A release's settings with changes over them; a model's directory by its whole path."""
    values = {**release, **changes}
    model = values.get("RERANK_MODEL", "")
    if model and Path(model).expanduser().is_dir():
        values["RERANK_MODEL"] = str(Path(model).expanduser().resolve())
    return {name: value for name, value in values.items() if value}


def differing(old: Settings, new: Settings) -> frozenset[str]:
    """Names of the settings that differ."""
    differ = {name for name in type(old).model_fields if getattr(old, name) != getattr(new, name)}
    if old.model_is_default != new.model_is_default:
        differ.add("model")
    return frozenset(differ - _OURS)


def way_of(differ: frozenset[str], *, same_artifact: bool) -> Way:
    """How a deploy with these differences goes.

    Args:
        differ: names of settings.
        same_artifact: whether the one that serves is the one that the new settings mean; a model's directory may have
            been written to since, and HUP prepares nothing.

    Raises:
        SetupError: some of them are not of a release.
    """
    fixed = sorted(name for name in differ - LIGHT - OF_THE_ARTIFACT if not name.startswith("gate_"))
    if fixed:
        names = ", ".join(f"RERANK_{name.upper()}" for name in fixed)
        raise SetupError(f"{names}: nginx, supervisor or the dashboard use it too; set it and restart the stack")
    return "hup" if differ and differ <= LIGHT and same_artifact else "color"


def _variable(name: str) -> str:
    field = name.strip().replace("-", "_").lower().removeprefix("rerank_")
    if field not in Settings.model_fields or field in _OURS:
        known = [each for each in Settings.model_fields if each not in _OURS]
        if name.isupper():
            prefix = sources.PREFIX if name.strip().startswith(sources.PREFIX) else ""
            known = [f"{prefix}{each.upper()}" for each in known]
        raise SetupError(sources.unknown(name.strip(), known))
    return f"RERANK_{field.upper()}"
