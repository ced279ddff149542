"""Our source files, and what they import from libraries. Classes are found by name, wherever their modules are."""

from __future__ import annotations

import ast
import importlib
import inspect
from functools import cache
from pathlib import Path
from typing import Any

from upstream.uses import DISTRIBUTIONS

ROOT = Path(__file__).parents[2]

SOURCES = [
    ROOT / "gunicorn_config.py",
    *(path for package in ("contracts", "pusher", "webapp") for path in sorted((ROOT / package).rglob("*.py"))),
]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def named(dotted: str) -> Any:
    """Return a module, or what is in it, by its full name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(dotted)


def imports(module: ast.Module) -> dict[str, Any]:
    """Return what a file imports from the libraries, by the local name."""
    found: dict[str, Any] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in DISTRIBUTIONS:
            for each in node.names:
                found[each.asname or each.name] = named(f"{node.module}.{each.name}")
    return found


def in_module(path: Path, name: str) -> Any:
    return getattr(importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)), name)


def ours(name: str) -> Any:
    """Return the one class of ours that has this name."""
    (path,) = [
        path
        for path in SOURCES
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.walk(tree(path)))
    ]
    return in_module(path, name)


def subclasses() -> dict[str, list[type]]:
    """Return our subclasses of the libraries' classes, by the full name of the library's class."""
    found: dict[str, list[type]] = {}
    for path in SOURCES:
        known = imports(tree(path))
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                for base in node.bases:
                    root, *names = ast.unparse(base).split(".")
                    place = known.get(root)
                    for name in names:
                        place = getattr(place, name, None)
                    if inspect.isclass(place):
                        key = f"{place.__module__}.{place.__qualname__}"
                        found.setdefault(key, []).append(in_module(path, node.name))
    return found


def parsed(source: Any) -> ast.Module:
    """Return the syntax tree of a module, a class or a function, whatever its indentation."""
    text = inspect.getsource(source)
    return ast.parse(f"if True:\n{text}").body[0] if text[0].isspace() else ast.parse(text)  # type: ignore[return-value]


def used(source: Any, *holders: str) -> set[str]:
    """Return the names of the attributes that code uses on these expressions."""
    nodes = (node for node in ast.walk(parsed(source)) if isinstance(node, ast.Attribute))
    found = {node.attr for node in nodes if ast.unparse(node.value) in holders}
    assert found, f"nothing in {source} is called {holders} any more"
    return found
