"""The version is the same wherever it is written, and what a release needs is there."""

import datetime as dt
import re
import tomllib
from pathlib import Path

from webapp import __version__

ROOT = Path(__file__).resolve().parents[2]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

PLACES = [
    ROOT / "README.md",
    ROOT / "Dockerfile",
    ROOT / "docker-compose.yml",
    *ROOT.glob("docs/*.md"),
    *(path for path in ROOT.glob("deploy/**/*") if path.is_file() and path.suffix != ".json"),
]
"""Where an image, a wheel or a label may be named."""

NAMED = re.compile(
    r"(?<!\w)reranking(?:-ray)?(?::|-|:\$\{TAG:-)(latest\b|[0-9]+\.[0-9]+\.[0-9]+)|image\.version=\"([^\"]*)\""
)


def test_every_image_wheel_and_label_has_the_version_of_the_code():
    found = {str(path.relative_to(ROOT)): {a or b for a, b in NAMED.findall(path.read_text())} for path in PLACES}
    found = {name: versions for name, versions in found.items() if versions}
    assert {
        "Dockerfile",
        "docker-compose.yml",
        "deploy/kubernetes/service.yaml",
        "deploy/traefik/color.compose.yaml",
        "deploy/ray/rayservice.yaml",
        "docs/install.md",
    } <= set(found)
    assert {name: versions for name, versions in found.items() if versions != {__version__}} == {}


def test_the_packages_version_is_that_of_the_code():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "webapp.__version__"}


def test_the_api_s_description_has_it(client):
    assert client.get("/openapi.json").get_json()["info"]["version"] == __version__
    assert client.get("/version").get_json() == {"version": __version__}


def test_the_changelog_begins_with_it_and_a_date():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [heading for heading in headings if heading != "Unreleased"]
    version, _, date = released[0].partition(" - ")
    assert version == __version__
    assert dt.date.fromisoformat(date)


def test_the_security_policy_supports_it():
    assert f"| {__version__.rpartition('.')[0]}.x | yes |" in (ROOT / "SECURITY.md").read_text()


def test_the_licence_is_named_where_it_is_asked_for():
    assert PROJECT["project"]["license"] == "Apache-2.0"
    assert PROJECT["project"]["license-files"] == ["LICENSE", "NOTICE"]
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in (ROOT / "Dockerfile").read_text()
    assert "LICENSE" in (ROOT / "scripts" / "build-wheel").read_text()
