"""Every package has a fixed version, and NOTICE names those that the wheel and the image hold."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

NAMED = set(re.findall(r"[@a-z0-9][a-z0-9.@/-]*[a-z0-9]", (ROOT / "NOTICE").read_text().lower()))


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def requires(name):
    try:
        return importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:  # of an extra that is not installed here
        return ()


def needed(name, extras=()):
    """Names of the packages that a package needs here, all the way down."""
    found, todo = set(), [(name, extras)]
    while todo:
        name, extras = todo.pop()
        if normal(name) in found:
            continue
        found.add(normal(name))
        for line in requires(name):
            wanted = Requirement(line)
            if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                todo.append((wanted.name, tuple(wanted.extras)))
    return found


def test_every_package_that_is_installed_is_pinned():
    """Some are needed by certain versions of Python only."""
    pinned = {normal(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = tuple(importlib.metadata.metadata("reranking").get_all("Provides-Extra"))
    installed = {normal(each.name) for each in importlib.metadata.distributions()}
    unpinned = (
        (needed("reranking", extras) & installed) - pinned - {"reranking", "reranking-client", "pip", "setuptools"}
    )
    of_torch = ("nvidia-", "cuda-", "triton")  # which pins them
    assert {name for name in unpinned if not name.startswith(of_torch)} == set()


def test_every_package_of_the_image_is_named():
    assert needed("reranking", ("redis", "tracing")) - {"reranking"} - NAMED == set()


def test_every_package_of_the_dashboard_is_named():
    lock = json.loads((ROOT / "pusher" / "dashboard" / "package-lock.json").read_text())["packages"]
    assert {path.rpartition("node_modules/")[2] for path in lock if path} - NAMED == set()


@pytest.mark.parametrize("name", ["bidict", "certifi", "tqdm"])
def test_what_is_under_the_mozilla_licence_is_listed_so(name):
    paragraph = (ROOT / "NOTICE").read_text().split("MPL-2.0: ")[1].split("\n\n")[0]
    assert name in paragraph
    assert "MPL" in (importlib.metadata.metadata(name)["License-Expression"] or "MPL")
