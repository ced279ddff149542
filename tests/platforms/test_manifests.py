"""Kubernetes, and Ray Serve, know every field of what ships for them."""

import copy
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from helm_kit import SETS, rendered
from kubernetes_kit import VERSIONS, check

pytestmark = pytest.mark.platforms

ROOT = Path(__file__).resolve().parents[2]

RAY = ROOT / "deploy" / "ray"

RAY_PYTHON = ROOT / ".venv-ray" / "bin" / "python"

SERVE = {
    "serve.yaml": yaml.safe_load((RAY / "serve.yaml").read_text()),
    "rayservice.yaml": yaml.safe_load(yaml.safe_load((RAY / "rayservice.yaml").read_text())["spec"]["serveConfigV2"]),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", SETS.values(), ids=SETS)
def test_kubernetes_knows_every_field_that_the_chart_makes(values, version):
    for found in rendered(values):
        check(found, version)


def problems_of(config):
    if not RAY_PYTHON.exists():
        pytest.skip(".venv-ray, which scripts/ray makes, is not there")
    command = [RAY_PYTHON, Path(__file__).with_name("serve_problems.py")]
    done = subprocess.run(command, input=json.dumps(config), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("file", SERVE)
def test_ray_serve_knows_every_field_of_its_configuration(file):
    assert problems_of(SERVE[file]) == []


def test_a_misspelled_field_of_ray_serves_configuration_is_found():
    config = copy.deepcopy(SERVE["serve.yaml"])
    (application,) = config["applications"]
    (deployment,) = application["deployments"]
    places = [config, config["http_options"], application, application["runtime_env"]]
    places += [deployment, deployment["autoscaling_config"], deployment["ray_actor_options"]]
    for place in places:
        place["misspelled"] = 1
    assert len(problems_of(config)) == len(places)
    deployment["backpressure_config"]["misspelled"] = 1
    assert "backpressure_config.misspelled" in " ".join(problems_of(config))
