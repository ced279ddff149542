"""What deploy/ray/ says, held to the code, to pyproject.toml and to each other."""

import re
import tomllib
from pathlib import Path

import yaml

from webapp.config.settings import PROXY_GRACE_S, Settings
from webapp.servers.ray.replica import replica_settings

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deploy" / "ray"
SERVE = yaml.safe_load((FILES / "serve.yaml").read_text())
MANIFEST = yaml.safe_load((FILES / "rayservice.yaml").read_text())
LONGEST_S = Settings.model_fields["request_timeout_s"].default

(APPLICATION,) = SERVE["applications"]
(DEPLOYMENT,) = APPLICATION["deployments"]


def test_both_ways_deploy_the_same():
    other = yaml.safe_load(MANIFEST["spec"]["serveConfigV2"])
    assert other["http_options"].pop("host") == "0.0.0.0"  # noqa: S104 - a pod's
    here = {**SERVE, "http_options": {**SERVE["http_options"]}}
    assert here["http_options"].pop("host") == "127.0.0.1"
    here["applications"] = [{name: value for name, value in APPLICATION.items() if name != "runtime_env"}]
    assert other == here


def test_our_own_limits_come_before_serves():
    assert DEPLOYMENT["max_ongoing_requests"] > Settings.model_fields["max_ongoing_requests"].default
    assert SERVE["http_options"]["request_timeout_s"] > LONGEST_S + PROXY_GRACE_S
    assert DEPLOYMENT["graceful_shutdown_timeout_s"] >= LONGEST_S + PROXY_GRACE_S
    pods = [MANIFEST["spec"]["rayClusterConfig"]["headGroupSpec"]]
    pods += MANIFEST["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    for pod in pods:
        wait_s = pod["template"]["spec"]["terminationGracePeriodSeconds"]
        assert wait_s > DEPLOYMENT["graceful_shutdown_timeout_s"]
    assert MANIFEST["spec"]["rayClusterDeletionDelaySeconds"] > SERVE["http_options"]["request_timeout_s"]


def test_nginx_waits_longer_than_serve_and_keeps_connections_for_less():
    text = (FILES / "nginx.conf").read_text()
    assert int(re.search(r"proxy_read_timeout (\d+)s", text)[1]) > SERVE["http_options"]["request_timeout_s"]
    assert int(re.search(r"keepalive_timeout (\d+)s", text)[1]) < SERVE["http_options"]["keep_alive_timeout_s"]
    assert int(re.search(r"client_max_body_size (\d+)m", text)[1]) == Settings.model_fields["max_body_mb"].default


def test_what_user_config_says_are_settings_of_a_replica():
    assert replica_settings(DEPLOYMENT["user_config"], engine_threads=1).max_documents == 10_000


def test_one_version_of_ray_everywhere():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["ray"]
    (pinned,) = [extra for extra in extras if extra.startswith("ray[serve]==")]
    version = pinned.rpartition("==")[2]
    assert str(MANIFEST["spec"]["rayClusterConfig"]["rayVersion"]) == version
    assert pinned in (FILES / "Dockerfile").read_text()
    assert f"\nray=={version}\n" in (ROOT / "constraints-ray.txt").read_text()
