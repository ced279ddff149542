"""Where settings come from: flag > environment > file > default. Unknown names refuse to start.

A flag is put into the environment of its process, so that every program that is started from it sees the same.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from webapp.domain.errors import SetupError

PREFIX = "RERANK_"

FILE_VARIABLE = "RERANK_CONFIG"
"""Names the file; set but empty: there is none."""

USUAL_FILE = Path("reranking.yaml")
"""Read from the directory in which a command runs, where no file is named."""

NOT_OURS = frozenset({FILE_VARIABLE, "RERANK_URL", "RERANK_KEY"})
"""Variables with the prefix that are no settings: the file's name, and what clients use to reach a service."""

_SERVICE_LINK = re.compile(
    r"RERANK_(.+_)?(SERVICE_(HOST|PORT(_.+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)|"
    r"RERANK_(.+_)?PORT=(tcp|udp|sctp)://.+"
)
"""What Kubernetes puts into every pod for a service named `rerank` or `rerank-…`: a name, or a name with its value."""

Origin = Literal["flag", "environment", "file", "default"]


@dataclass(frozen=True)
class Sources:
    """What was found, by the settings' names: `port`."""

    environment: dict[str, str]
    file: dict[str, Any]
    path: Path | None
    flags: frozenset[str] = field(default_factory=frozenset)

    def origin(self, name: str) -> Origin:
        """Which source a setting's value is from."""
        if name in self.flags:
            return "flag"
        if name in self.environment:
            return "environment"
        return "file" if name in self.file else "default"

    def place(self, name: str) -> str:
        """Where an operator finds it: `--port`, `RERANK_PORT`, `port in reranking.yaml`."""
        return {
            "flag": flag(name),
            "environment": variable(name),
            "file": f"{name} in {self.path}",
            "default": variable(name),
        }[self.origin(name)]

    def values(self) -> dict[str, Any]:
        """What was chosen, not checked."""
        return {**self.file, **self.environment}


def variable(name: str) -> str:
    """`port` -> `RERANK_PORT`."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """`state_dir` -> `--state-dir`."""
    return "--" + name.replace("_", "-")


def gather(known: Collection[str], flags: Collection[str] = (), environment: Mapping[str, str] = os.environ) -> Sources:
    """Look into environment and file.

    Args:
        known: names of all settings.
        flags: names of those that were given as flags; their values are in the environment.
        environment: its variables.

    Raises:
        SetupError: something there is no setting, or the file can't be read.
    """
    path = _path(environment)
    links = [name for name, value in environment.items() if _is_service_link(name, value)]
    if links:
        more = f" (and {len(links) - 1} more)" if len(links) > 1 else ""
        raise SetupError(
            f"{links[0]}={environment[links[0]]}{more} is a variable that Kubernetes sets for a service of that name,"
            " and no setting; put enableServiceLinks: false into the pod's spec, or rename the service"
        )
    sources = Sources(
        environment={
            name.upper().removeprefix(PREFIX).lower(): value
            for name, value in environment.items()
            if name.upper().startswith(PREFIX) and name.upper() not in NOT_OURS
        },
        file=_read(path) if path else {},
        path=path,
        flags=frozenset(flags),
    )
    problems = [unknown(variable(name), map(variable, known)) for name in sorted(set(sources.environment) - set(known))]
    problems += [f"{path}: {unknown(name, known)}" for name in sources.file if name not in known]
    if problems:
        raise SetupError("; ".join(problems))
    return sources


def _is_service_link(name: str, value: str) -> bool:
    return any(map(_SERVICE_LINK.fullmatch, (name, f"{name}={value}")))


def _read(path: Path) -> dict[str, Any]:
    from webapp.config.settings_file import read_file  # noqa: PLC0415 - a parser that most services don't need

    return read_file(path)


def _path(environment: Mapping[str, str]) -> Path | None:
    if FILE_VARIABLE in environment:
        named = environment[FILE_VARIABLE]
        return Path(named).expanduser().absolute() if named else None
    return USUAL_FILE.absolute() if USUAL_FILE.exists() else None


RENAMED = {"colour": "color"}
"""Settings of earlier versions, and their names now."""


def unknown(name: str, known: Collection[str] | map[str]) -> str:
    """What is said of a name that is no setting, with the nearest that is."""
    candidates = list(known)
    if renamed := RENAMED.get(name.removeprefix(PREFIX).lower()):
        return f"{name} is called {variable(renamed) if name.startswith(PREFIX) else renamed} now"
    if name.removeprefix(PREFIX).lower() in candidates:  # a variable's name in the file
        return f"{name} is no setting; did you mean {name.removeprefix(PREFIX).lower()}?"
    nearest = difflib.get_close_matches(name, candidates, 1) or difflib.get_close_matches(
        name.lower().replace("-", "_"), candidates, 1
    )
    return f"{name} is no setting; " + (f"did you mean {nearest[0]}?" if nearest else "`reranking config` lists them")
