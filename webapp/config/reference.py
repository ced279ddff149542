"""Settings for people to read: effective values with their sources, a commented file, the reference. PURE."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from webapp.config.paths import STATE
from webapp.config.settings import RELOADABLE, Settings, is_secret
from webapp.config.sources import Origin, Sources

MASK = "********"

WIDTH = 118
"""Longest line of a comment in the file."""


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
    for name, value in settings:
        about = Settings.model_fields[name]
        lines += ["", *_comment(f"{about.description} {_allowed(about)}".strip())]
        kept = sources.origin(name) != "default"
        entry = yaml.safe_dump({name: plain(value)}, default_flow_style=False, allow_unicode=True, width=1000).rstrip()
        lines.append(entry if kept else f"# {entry}")
    return "\n".join(lines) + "\n"


def as_reference() -> str:
    """Return docs/configuration.md."""
    rows = [
        f"| `{name}` | {_default(about)} | {_kind(about)} | {_reload(name)} | {about.description} |".replace(
            "{", "&#123;"
        )
        for name, about in Settings.model_fields.items()
    ]
    return "\n".join([_REFERENCE.rstrip(), *rows, ""])


def _comment(text: str) -> Iterator[str]:
    line = "#"
    for word in text.split():
        if len(line) + len(word) >= WIDTH:
            yield line
            line = "#"
        line += f" {word}"
    yield line


def _default(about: FieldInfo) -> str:
    value = plain(about.default)
    if value == str(STATE):
        return "`var`, in the project's folder; of an installed wheel, where it is started"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else ""


def _kind(about: FieldInfo) -> str:
    """Return the allowed values: `int8` or `fp32`, 1 to 256, text."""
    kind = about.annotation
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    least = next((each.ge for each in about.metadata if hasattr(each, "ge")), None)
    most = next((each.le for each in about.metadata if hasattr(each, "le")), None)
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    if least is not None:
        return f"at least {_number(least)}"
    names = {Path: "path", SecretStr: "text, secret", int: "whole number", float: "number"}
    return names.get(kind if isinstance(kind, type) else NoneType, "text")


def _reload(name: str) -> str:
    return "reload" if name in RELOADABLE else ""


def _number(value: Any) -> str:
    return f"{value:,}"


def _allowed(about: FieldInfo) -> str:
    kind = _kind(about).replace("`", "")
    return "" if kind.startswith(("text", "path")) else f"({kind})"


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
