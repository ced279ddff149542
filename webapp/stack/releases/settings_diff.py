"""What a deploy changes: settings, code, packages; and whether a reload in place is enough."""

from __future__ import annotations

import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from webapp.config import sources
from webapp.config.paths import ROOT
from webapp.config.settings import RELOADABLE, Settings
from webapp.domain.errors import SetupError

ARTIFACT = frozenset({"model", "engine", "precision", "max_length_tokens", "recipe", "faster_artifact", "instruction"})
"""Settings that name another artifact, or how it is opened, which takes a new color; so do all that begin with `gate_`.
"""

_NOT_SETTABLE = frozenset({"color", "release"})
"""Settings that a deploy itself sets."""

_START_TIME = 19
"""Index of the start time among the fields behind the program's name in /proc/PID/stat; in clock ticks since boot."""

Way = Literal["hup", "color"]


def read_assignments(given: Iterable[str]) -> dict[str, str]:
    """Return `NAME=VALUE` texts as a dictionary RERANK_NAME -> value.

    An empty value means: the value of the stack's environment.

    Raises:
        SetupError: a text is no assignment, or there is no such setting.
    """
    found = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign:
            raise SetupError(f"{text!r} is not NAME=VALUE, such as WORKERS=2")
        found[_variable(name)] = value.strip()
    return found


def read_file(path: Path) -> dict[str, str]:
    """Return a settings file's content as `read_assignments` does.

    Raises:
        SetupError: the file can't be read, or names a setting that does not exist.
    """
    values = sources.read_file(path.expanduser())

    def text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)

    try:
        return {_variable(name): text(value) for name, value in values.items()}
    except SetupError as error:
        raise SetupError(f"{path}: {error}") from None


def combined(release: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return a release's settings with changes over them; a model's directory gets its absolute path."""
    values = {**release, **changes}
    model = values.get("RERANK_MODEL", "")
    if model and Path(model).expanduser().is_dir():
        values["RERANK_MODEL"] = str(Path(model).expanduser().resolve())
    return {name: value for name, value in values.items() if value}


def differing(old: Settings, new: Settings) -> frozenset[str]:
    """Return the names of the settings that differ. PURE."""
    differ = {name for name in type(old).model_fields if getattr(old, name) != getattr(new, name)}
    if old.model_is_default != new.model_is_default:
        differ.add("model")
    return frozenset(differ - _NOT_SETTABLE)


def way_of(differ: frozenset[str], *, same_artifact: bool) -> Way:
    """Return how to deploy a change of these settings: reload the active color (HUP) or start a new one. PURE.

    Args:
        differ: names of settings.
        same_artifact: whether the artifact that serves is the one that the new settings name. A model's directory may
            have changed since, and HUP prepares nothing.

    Raises:
        SetupError: a setting is used outside the color too, so no deploy can change it.
    """
    fixed = sorted(name for name in differ - RELOADABLE - ARTIFACT if not name.startswith("gate_"))
    if fixed:
        names = ", ".join(f"RERANK_{name.upper()}" for name in fixed)
        raise SetupError(f"{names}: nginx, supervisor or the dashboard use it too; set it and restart the stack")
    return "hup" if differ and differ <= RELOADABLE and same_artifact else "color"


def changed_since_start(pid: int) -> bool:
    """Return whether code, packages or the settings file changed after this process started, or it is gone."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START_TIME])
    except OSError:
        return True
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    began = time.time() - age_s
    # ctime: a checkout or an installer may give files an older mtime.
    return any(path.stat().st_ctime >= began for path in _files_read_at_start() if path.exists())


def _files_read_at_start() -> Iterator[Path]:
    for package in ("webapp", "pusher", "contracts"):
        yield from (ROOT / package).rglob("*.py")
        yield from (ROOT / package).rglob("*.so")
    yield ROOT / "gunicorn_config.py"
    yield Path(sys.executable).resolve()
    for packages in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        yield from Path(packages).glob("*.dist-info")  # each install writes one, and nothing else does
    if named := os.environ.get(sources.FILE_VARIABLE):
        yield Path(named)


def _variable(name: str) -> str:
    field = name.strip().replace("-", "_").lower().removeprefix("rerank_")
    if field not in Settings.model_fields or field in _NOT_SETTABLE:
        known = [each for each in Settings.model_fields if each not in _NOT_SETTABLE]
        if name.isupper():
            prefix = sources.PREFIX if name.strip().startswith(sources.PREFIX) else ""
            known = [f"{prefix}{each.upper()}" for each in known]
        raise SetupError(sources.unknown(name.strip(), known))
    return f"RERANK_{field.upper()}"
