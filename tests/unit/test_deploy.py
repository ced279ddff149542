"""What ships beside the code agrees with it, and among itself."""

import http.server
import json
import os
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from webapp.config.settings import STOP_GRACE_S, Settings
from webapp.config.sources import NOT_OURS

ROOT = Path(__file__).resolve().parents[2]

COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

KUBERNETES = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "service.yaml").read_text()))

COLOR = yaml.safe_load((ROOT / "deploy" / "traefik" / "color.compose.yaml").read_text())["services"]["webapp"]

PUSHER = yaml.safe_load((ROOT / "deploy" / "traefik" / "proxy.compose.yaml").read_text())["services"]["pusher"]

POD = KUBERNETES[0]["spec"]["template"]["spec"]


UNIT = (ROOT / "deploy" / "systemd" / "reranking.service").read_text()


@pytest.mark.parametrize(
    "patience_s",
    [
        pytest.param(COMPOSE["services"]["reranking"]["stop_grace_period"], id="compose"),
        pytest.param(COLOR["stop_grace_period"], id="a color"),
        pytest.param(POD["terminationGracePeriodSeconds"], id="kubernetes"),
        pytest.param(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1], id="systemd"),
    ],
)
def test_every_deployment_waits_longer_than_the_service_needs_to_stop(patience_s):
    needed_s = 2 * (Settings.model_fields["request_timeout_s"].default + STOP_GRACE_S)
    assert int(str(patience_s).removesuffix("s")) > needed_s


def test_every_variable_that_is_set_is_a_setting():
    dockerfile = re.findall(r"RERANK_[A-Z_]+", (ROOT / "Dockerfile").read_text())
    compose = COMPOSE["services"]["reranking"]["environment"]
    colors = [name for name in COLOR["environment"] if name.startswith("RERANK_")]
    kubernetes = [variable["name"] for variable in POD["containers"][0]["env"]]
    known = {f"RERANK_{name.upper()}" for name in Settings.model_fields} | NOT_OURS
    assert {*dockerfile, *compose, *colors, *kubernetes} - known == set()


@pytest.mark.parametrize(
    ("inline", "file", "here", "there"),
    [
        ("prometheus", "prometheus/prometheus.yml", "127.0.0.1:8080", "reranking:8080"),
        ("datasource", "grafana/provisioning/datasources/prometheus.yml", "127.0.0.1:9090", "prometheus:9090"),
    ],
)
def test_compose_configures_prometheus_and_grafana_as_deploy_does(inline, file, here, there):
    shipped = (ROOT / "deploy" / file).read_text().replace(here, there)
    assert yaml.safe_load(COMPOSE["configs"][inline]["content"]) == yaml.safe_load(shipped)


def test_compose_starts_traefik_a_pusher_and_two_colors_only_by_their_profile():
    behind = {name for name, service in COMPOSE["services"].items() if "traefik" in service.get("profiles", ())}
    assert behind == {"traefik", "pusher", "blue", "green"}


@pytest.mark.parametrize("name", ["traefik", "pusher", "blue", "green"])
def test_what_compose_extends_uses_networks_of_compose_and_needs_no_variable_for_a_color(name):
    service = COMPOSE["services"][name]
    file = yaml.safe_load((ROOT / service["extends"]["file"]).read_text())
    extended = file["services"][service["extends"]["service"]]
    assert set(extended["networks"]) <= set(COMPOSE["networks"])
    # A variable without a default would stop every `docker compose`, also one without the profile.
    assert ":?" not in json.dumps(extended)
    if name in {"blue", "green"}:
        assert service["environment"]["RERANK_COLOR"] == name


def test_colors_send_to_the_pusher_beside_traefik_by_the_same_files_of_settings():
    assert COLOR["environment"]["RERANK_PUSHER_URL"] == "http://pusher:8081"
    assert COLOR["environment"]["RERANK_EVENTS_ENDPOINT"] == "tcp://pusher:5557"
    assert PUSHER["command"][2:] == ["--listen", "0.0.0.0:8081", "--events-listen", "tcp://0.0.0.0:5557"]
    # The key of events is in one of these: without it neither starts. None has a value here, which would hide theirs.
    assert PUSHER["env_file"] == COLOR["env_file"]
    assert "RERANK_EVENTS_KEY" not in COLOR["environment"]
    assert set(PUSHER["networks"]) == set(COLOR["networks"])
    assert "ports" not in PUSHER
    assert (PUSHER["cap_drop"], PUSHER["security_opt"]) == (COLOR["cap_drop"], COLOR["security_opt"])


def test_compose_follows_its_schema():
    check = pytest.importorskip("check_jsonschema.cli")
    files = [str(ROOT / "docker-compose.yml"), *map(str, (ROOT / "deploy" / "traefik").glob("*.compose.yaml"))]
    outcome = CliRunner().invoke(check.main, ["--builtin-schema", "vendor.compose-spec", *files])
    assert outcome.exit_code == 0, outcome.output
    assert len(files) == 3


DOCKER = """#!/bin/sh
echo "$*" >> calls
[ "$2" != port ] || echo "$ADDRESS"
[ "$2" != "$FAILS" ]
"""


def deploy(folder, *arguments, **variables):
    """Run scripts/deploy with a stand-in for docker; return the outcome and the steps."""
    docker = folder / "docker"
    docker.write_text(DOCKER.replace("calls", f"{folder}/calls"))
    docker.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    command = [ROOT / "scripts" / "deploy", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    calls = folder / "calls"
    return done, [call.split()[1] for call in calls.read_text().splitlines()] if calls.exists() else []


@pytest.mark.parametrize("fails", ["build", "up", "port", "the smoke test"])
def test_the_deploy_script_goes_step_by_step_and_tells_of_the_one_that_fails(tmp_path, fails):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and doesn't listen: the service can't be reached there
        done, steps = deploy(tmp_path, FAILS=fails, ADDRESS=f"0.0.0.0:{nobody.getsockname()[1]}")
    assert done.returncode == 1
    begun = {"build": ["build"], "up": ["build", "up", "logs"]}
    assert steps == begun.get(fails, ["build", "up", "port", "logs"])
    assert ("GET /ready" in done.stdout) == (fails == "the smoke test")


class Asked(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.hosts.append(self.headers["Host"])
        self.send_error(503)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("published", ["0.0.0.0", "[::]", "127.0.0.1"])  # noqa: S104 - as Compose says it
@pytest.mark.parametrize("given", [True, False], ids=["an address is given", "the published port"])
def test_the_smoke_test_asks_the_address_that_is_given_or_the_port_that_compose_publishes(tmp_path, given, published):
    with http.server.HTTPServer(("127.0.0.1", 0), Asked) as server:
        server.hosts = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_port
        options = ("--url", f"http://localhost:{port}") if given else ()
        _, steps = deploy(tmp_path, *options, FAILS="", ADDRESS=f"{published}:{port}", RERANK_PORT="1")
        server.shutdown()
    assert server.hosts == [f"localhost:{port}" if given else f"127.0.0.1:{port}"]
    assert ("port" in steps) != given


@pytest.mark.parametrize("wrong", [["--ca"], ["--no-such-option"], ["http://127.0.0.1:8080"]])
def test_a_wrong_command_line_of_the_deploy_script_starts_nothing(tmp_path, wrong):
    done, steps = deploy(tmp_path, *wrong)
    assert (done.returncode, steps) == (2, [])
    assert done.stderr.startswith("usage: deploy [")


def test_what_compose_mounts_is_there():
    mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", ())]
    sources = [mount.partition(":")[0] for mount in mounts]
    assert [source for source in sources if source.startswith("./") and not (ROOT / source).exists()] == []
    assert {source for source in sources if not source.startswith("./")} == set(COMPOSE["volumes"])


def test_the_pod_asks_by_probes_that_the_service_has_and_drains_before_it_goes():
    container = POD["containers"][0]
    assert container["startupProbe"]["httpGet"]["path"] == container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    assert container["lifecycle"]["preStop"]["exec"]["command"][:2] == ["reranking", "drain"]
    assert KUBERNETES[1]["spec"]["selector"].items() <= KUBERNETES[0]["spec"]["template"]["metadata"]["labels"].items()


def test_secrets_and_leftovers_stay_out_of_the_image():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "reranking.yaml", "*.key", ".env", "var", "**/*.so", "**/node_modules"} <= set(ignored)
