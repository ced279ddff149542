"""The sources of settings: flag > environment > file > default. Unknown names refuse to start.

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
"""The variable that names the file; empty: there is none."""

USUAL_FILE = Path("reranking.yaml")
"""The file in the command's working directory that is read if none is named."""

NOT_OURS = frozenset({FILE_VARIABLE, "RERANK_URL", "RERANK_KEY"})
"""Variables with the prefix that are no settings: the file's name, and the clients' address and key."""

_SERVICE_LINK = re.compile(
    r"RERANK_(.+_)?(SERVICE_(HOST|PORT(_.+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)|"
    r"RERANK_(.+_)?PORT=(tcp|udp|sctp)://.+"
)
"""Variables that Kubernetes sets in every pod for a service named `rerank` or `rerank-…`: NAME or NAME=VALUE."""

Origin = Literal["flag", "environment", "file", "default"]


@dataclass(frozen=True)
class Sources:
    """The values found in environment and file, by the settings' names, such as `port`."""

    environment: dict[str, str]
    file: dict[str, Any]
    path: Path | None
    flags: frozenset[str] = field(default_factory=frozenset)

    def origin(self, name: str) -> Origin:
        """Return which source a setting's value is from."""
        if name in self.flags:
            return "flag"
        if name in self.environment:
            return "environment"
        return "file" if name in self.file else "default"

    def place(self, name: str) -> str:
        """Return where an operator finds a setting: `--port`, `RERANK_PORT`, `port in reranking.yaml`."""
        places = {"flag": flag(name), "file": f"{name} in {self.path}"}
        return places.get(self.origin(name), variable(name))

    def values(self) -> dict[str, Any]:
        """Return the chosen values by the settings' names, not checked."""
        return {**self.file, **self.environment}


def variable(name: str) -> str:
    """Return a setting's environment variable: `port` -> `RERANK_PORT`."""
    return PREFIX + name.upper()


def flag(name: str) -> str:
    """Return a setting's flag: `state_dir` -> `--state-dir`."""
    return "--" + name.replace("_", "-")


def gather(known: Collection[str], flags: Collection[str] = (), environment: Mapping[str, str] = os.environ) -> Sources:
    """Read settings from the environment and the file.

    Args:
        known: names of all settings.
        flags: names of settings that were given as flags; their values are in the environment.
        environment: the variables.

    Raises:
        SetupError: a name is not a setting, or the file can't be read.
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
        file=read_file(path) if path else {},
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


def _path(environment: Mapping[str, str]) -> Path | None:
    if FILE_VARIABLE in environment:
        named = environment[FILE_VARIABLE]
        return Path(named).expanduser().absolute() if named else None
    return USUAL_FILE.absolute() if USUAL_FILE.exists() else None


RETIRED = {"colour": "color"}
"""Settings of earlier versions -> their names now, or the reason why they are gone."""


def unknown(name: str, known: Collection[str] | map[str]) -> str:
    """Return the error message for a name that is not a setting, with the nearest name that is.

    Args:
        name: a variable's name or a name in the file.
        known: all names of that kind.
    """
    candidates = list(known)
    setting = name.removeprefix(PREFIX).lower()
    if retired := RETIRED.get(setting):
        renamed = variable(retired) if name.startswith(PREFIX) else retired
        return f"{name} is called {renamed} now" if renamed in candidates else f"{name} is gone: {retired}"
    if setting in candidates:  # a variable's name in the file
        return f"{name} is no setting; did you mean {setting}?"
    nearest = difflib.get_close_matches(name, candidates, 1) or difflib.get_close_matches(
        name.lower().replace("-", "_"), candidates, 1
    )
    return f"{name} is no setting; " + (f"did you mean {nearest[0]}?" if nearest else "`reranking config` lists them")


def read_file(path: Path) -> dict[str, Any]:
    """Return the settings in a YAML file of `name: value` lines, not checked.

    Raises:
        SetupError: it can't be read, holds something else, or has a name twice.
    """
    import yaml  # noqa: PLC0415 - most services have no file

    class UniqueKeys(yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
        """Refuses equal names: YAML takes the last of them without a word, and an operator would search for long."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - yaml's own
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    raise yaml.YAMLError(f"{key.value} is there twice, again in line {key.start_mark.line + 1}")
                seen.add(str(key.value))
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    try:
        content = yaml.load(path.read_text(encoding="utf-8"), UniqueKeys)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise SetupError(f"{path} can't be read ({error.strerror}); RERANK_CONFIG names the file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SetupError(f'{path} should hold lines of "name: value", such as "port: 8080"')
    return content
