"""The wheel, installed where nothing else is."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import requests
from packaged import Installed, build_wheels, environment, smoke
from reranking_client._version import VERSION
from running import PATIENCE_S, free_port, wait_for

from webapp import __version__

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    return build_wheels(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(wheels, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("clean") / "env", wheels)


def test_it_fits_every_python_and_says_its_types_and_version(wheels):
    wheel, client = wheels
    assert client.name == f"reranking_client-{VERSION}-py3-none-any.whl"
    assert wheel.name.startswith(f"reranking-{__version__}-py3-none-linux")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"reranking_server", f"reranking-{__version__}.dist-info"}
    inside = {name.split("/")[1] for name in names if name.startswith("reranking_server/")}
    code = {"__init__.py", "__main__.py", "ray_app.py", "ray_router.py", "webapp", "pusher", "contracts"}
    assert inside == code | {"nginx", "supervisor", "gunicorn_config.py"}
    assert [name for name in names if name.endswith((".c", ".h"))] == [], "they are compiled"
    assert f"reranking-{__version__}.dist-info/licenses/LICENSE" in names


@pytest.mark.parametrize("name", ["torch", "transformers", "sentence_transformers", "redis", "opentelemetry", "pytest"])
def test_the_base_install_lacks_what_an_extra_brings(python, name):
    outcome = subprocess.run([python, "-c", f"import {name}"], capture_output=True, text=True, check=False)
    assert f"No module named '{name}'" in outcome.stderr


def test_it_serves_a_prepared_model_from_an_empty_folder(python, bert_settings, tmp_path):
    with Installed(
        python.with_name("reranking"), tmp_path, artifacts_from=bert_settings.state_dir, model=bert_settings.model
    ) as stack:
        seen = smoke(stack.url, python)
        assert seen.returncode == 0, seen.stdout
        assert "/dashboard/vendor/socket.io.js" in seen.stdout
        assert requests.get(f"{stack.url}/version", timeout=PATIENCE_S).json() == {"version": __version__}
        assert smoke(f"{stack.url}/elsewhere").returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["var"]


def test_the_api_alone_runs_from_an_empty_folder(python, tmp_path):
    port = free_port()
    variables = {**os.environ, "RERANK_ENGINE": "stub", "RERANK_PORT": str(port)}
    with (tmp_path / "out").open("w") as output:
        process = subprocess.Popen(
            [python.with_name("reranking"), "run"], env=variables, cwd=tmp_path, stdout=output, stderr=output
        )

    def ranked():
        try:
            return requests.post(
                f"http://127.0.0.1:{port}/rerank", json={"query": "q", "texts": ["a"]}, timeout=PATIENCE_S
            ).ok
        except requests.ConnectionError:
            return False

    try:
        wait_for(ranked, "it ranks")
    finally:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("REDIS_URL", "redis://127.0.0.1:1", "pip install 'reranking[redis]'"),
        ("OTEL_ENDPOINT", "http://127.0.0.1:1", "pip install 'reranking[tracing]'"),
    ],
)
def test_a_setting_whose_extra_is_missing_names_it(python, tmp_path, setting, value, remedy):
    variables = {**os.environ, "RERANK_ENGINE": "stub", f"RERANK_{setting}": value}
    outcome = subprocess.run(
        [python.with_name("reranking"), "run"], env=variables, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert outcome.returncode != 0
    assert remedy in outcome.stdout + outcome.stderr


def stranger(folder):
    """Make a wheel of another project whose packages have the names of ours."""
    folder.mkdir()
    wheel, info = folder / "pusher-3.3.4-py3-none-any.whl", "pusher-3.3.4.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        for package in ("pusher", "webapp", "contracts"):
            file.writestr(f"{package}/__init__.py", "WHOSE = 'another project'")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: pusher\nVersion: 3.3.4\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return wheel


def pip(python, *arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", python, *arguments]
    subprocess.run(command, check=True, capture_output=True)


def whose(python):
    code = "import pusher, webapp, contracts; print({pusher.WHOSE, webapp.WHOSE, contracts.WHOSE})"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd="/").stdout


@pytest.fixture
def short_path():
    """A folder whose path leaves room for the sockets in it; pytest's has the test's name."""
    with tempfile.TemporaryDirectory(prefix="wheel") as folder:
        yield Path(folder)


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_another_project_may_have_packages_of_the_same_names(wheels, first, tmp_path, short_path):
    """PyPI has a `pusher`, for one. In either order, and when one of the two is removed, the other works."""
    other = stranger(tmp_path / "stranger")
    python = environment(tmp_path / "env", [other, *wheels] if first == "theirs" else wheels)
    if first == "ours":
        pip(python, "install", "--no-deps", "--no-index", other)
    assert whose(python) == "{'another project'}\n"
    with Installed(python.with_name("reranking"), short_path, engine="stub") as stack:
        seen = smoke(stack.url, python)
        assert seen.returncode == 0, seen.stdout
    pip(python, "uninstall", "--yes", *(["reranking", "reranking-client"] if first == "ours" else ["pusher"]))
    if first == "ours":
        assert whose(python) == "{'another project'}\n"
    else:
        shown = subprocess.run([python.with_name("reranking"), "--version"], capture_output=True, text=True, check=True)
        assert shown.stdout == f"{__version__}\n"
