"""Settings for people to read: effective values with their sources, a commented file, the reference. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

import yaml
from pydantic import SecretStr

from webapp.config.paths import STATE
from webapp.config.settings import Settings, is_secret
from webapp.config.sources import Origin, Sources

MASK = "********"

WIDTH = 118
"""Longest line of a comment in the file."""


SCHEMA: dict[str, dict[str, Any]] = Settings.model_json_schema()["properties"]
"""Setting -> its description, default, type and limits, as JSON Schema has them."""


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting that is in force."""

    name: str
    value: Any
    """A JSON value; a secret is masked, and empty if there is none."""
    origin: Origin
    place: str
    """`RERANK_PORT`, `--port`, the file's path; empty for a default."""


def effective(settings: Settings, sources: Sources) -> list[Effective]:
    """Return every setting, in the model's order; secrets are masked."""
    rows = []
    for name, value in settings:
        origin = sources.origin(name)
        place = "" if origin == "default" else str(sources.path) if origin == "file" else sources.place(name)
        shown = (MASK if value.get_secret_value() else "") if is_secret(name) else plain(value)
        rows.append(Effective(name, shown, origin, place))
    return rows


def plain(value: Any) -> Any:
    """Return a value for YAML and JSON; secrets in the clear."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value


def as_file(settings: Settings, sources: Sources) -> str:
    """Return a commented reranking.yaml: settings that are set, and the others as comments. Holds the secrets."""
    lines = [
        "# Settings of the reranking service. Lines behind # are the defaults.",
        "# A flag (--port) goes before a variable (RERANK_PORT), and that before this file.",
        "# All of them: docs/configuration.md. Those in force, and where each is from: reranking config",
    ]
    for name, about in SCHEMA.items():
        allowed = _allowed(about).replace("`", "")
        comment = (
            about["description"] if allowed.startswith(("text", "path")) else f"{about['description']} ({allowed})"
        )
        entry = yaml.safe_dump({name: plain(getattr(settings, name))}, allow_unicode=True, width=1000).rstrip()
        lines += ["", *_wrap(comment), entry if sources.origin(name) != "default" else f"# {entry}"]
    return "\n".join(lines) + "\n"


def as_reference() -> str:
    """Return docs/configuration.md."""
    rows = [
        f"| `{name}` | {_default(about['default'])} | {_allowed(about)} | {'reload' if 'reload' in about else ''} |"
        f" {about['description']} |".replace("{", "&#123;")
        for name, about in SCHEMA.items()
    ]
    return "\n".join([_REFERENCE.rstrip(), *rows, ""])


_wrap = TextWrapper(
    WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
).wrap


def _default(value: Any) -> str:
    if value == str(STATE):
        return "`var`, in the project's folder; of an installed wheel, where it is started"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else ""


def _allowed(about: Mapping[str, Any]) -> str:
    """Return the allowed values: `int8` or `fp32`, 1 to 256, text."""
    if choices := about.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    least, most = about.get("minimum"), about.get("maximum")
    if least is not None:
        return f"at least {least:,}" if most is None else f"{least:,} to {most:,}"
    formats = {"path": "path", "password": "text, secret"}  # nosec B105 - what pydantic calls a secret
    return formats.get(about.get("format", "")) or {"boolean": "`true`, `false`"}.get(about["type"], "text")


_REFERENCE = """\
# Settings

Made from [webapp/config/settings.py](../webapp/config/settings.py) by `reranking config --reference`; `scripts/check`
sees to it that it is true. How to use them is in [operations](operations.md#3-settings).

A setting called `port` is, in this order of precedence:

1. the flag `--port 9000` of a `reranking` command (not of `deploy` and `rollback`, which ask the stack for its
   settings; and secrets are no flags: other users see a process' flags);
2. the environment variable `RERANK_PORT=9000`;
3. the line `port: 9000` of the file: the one that `--config` or `RERANK_CONFIG` names (empty: none), else
   `reranking.yaml` in the directory in which the command runs, where there is one;
4. the default below.

A name that is no setting, a value that isn't allowed, or two that contradict each other: nothing starts, and one line
says which, where it stands, and what was probably meant. `RERANK_URL` and `RERANK_KEY` are no settings: clients use
them, `reranking rerank` for one. Lists are comma-separated; in the file they may be YAML lists.

`reload` in the fourth column: a deploy that changes only such settings needs no new color, because new workers take
them over ([reload or new color](releases.md#reload-or-new-color)).

| name | default | allowed | deploy | |
|---|---|---|---|---|"""
