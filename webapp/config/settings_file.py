"""A file of settings: YAML, one `name: value` a line. A module of its own: most services have no such file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from webapp.domain.errors import SetupError


def read_file(path: Path) -> dict[str, Any]:
    """The settings in it, not checked.

    Raises:
        SetupError: it can't be read, or holds something else.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _NoDoubles)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise SetupError(f"{path} can't be read ({error.strerror}); RERANK_CONFIG names the file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"{path} is not valid YAML: {' '.join(str(error).split())[:300]}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise SetupError(f'{path} should hold lines of "name: value", such as "port: 8080"')
    return content


class _NoDoubles(yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
    """YAML takes the last of two equal names without a word; an operator would search for long."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - yaml's own
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.YAMLError(f"{key.value} is there twice, again in line {key.start_mark.line + 1}")
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
