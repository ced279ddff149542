"""The wheel, installed where nothing else is."""

import os
import subprocess
import zipfile

import pytest
import requests
from packaged import Installed, build_wheel, environment, smoke
from running import PATIENCE_S, free_port, wait_for

from webapp import __version__

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("clean") / "env", wheel)


def test_it_fits_every_python_and_says_its_types_and_version(wheel):
    assert wheel.name.startswith(f"reranking-{__version__}-py3-none-linux")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"webapp/py.typed", "pusher/py.typed", "contracts/py.typed"} <= set(names)
    assert [name for name in names if name.startswith(("tests/", "bench/", "supervisor/", "var/"))] == []
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
