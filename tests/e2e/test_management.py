"""The stack as its operators manage it: supervisorctl, the command line, a settings file, systemd."""

import grp
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import requests
from running import PATIENCE_S, Stack, wait_for

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "reranking.service"


def typed(stack, *arguments, **options):
    """A command with the settings of a stack."""
    return subprocess.run(
        [sys.executable, "-m", "webapp", *arguments],
        env={**stack._environment, **options.pop("variables", {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        **options,
    )


@pytest.mark.slow
def test_supervisorctl_restart_loses_no_request(stack):
    outcomes, stop = Counter(), threading.Event()

    def ask(number):
        while not stop.is_set():
            try:
                outcomes[stack.rerank([f"{number} asks {sum(outcomes.values())}", "again"]).status_code] += 1
            except requests.RequestException as error:
                outcomes[type(error).__name__] += 1

    clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    before = stack.pid_of("webapp")
    wait_for(lambda: outcomes[200] > 20, "they are at work")
    said = stack.supervisorctl("restart", "webapp")
    asked = outcomes[200]
    wait_for(lambda: outcomes[200] > asked + 20, "they go on")
    stop.set()
    for client in clients:
        client.join()
    assert "webapp-blue: started" in said
    assert stack.pid_of("webapp") not in {None, before}
    assert set(outcomes) == {200}, outcomes


def test_status_tells_of_programs_workers_and_the_model(stack):
    def heard():
        memory = json.loads((stack.state_dir / "run" / "pusher.json").read_text())
        return any(worker["state"] == "ready" and "rss_bytes" in worker for worker in memory["workers"])

    wait_for(heard, "the pusher has heard a pulse")
    outcome = typed(stack, "status", "--json")
    seen = json.loads(outcome.stdout)
    assert outcome.returncode == 0, seen
    assert seen["health"] == "serving"
    names = {program["name"] for program in seen["programs"]}
    assert names == {"webapp-blue", "webapp-green", "pusher", "metrics", "nginx"}
    assert seen["model"] == {"model": "bert", "engine": "openvino", "precision": "fp32"}
    assert [(worker["state"], worker["breaker"]) for worker in seen["workers"]] == [("ready", "closed")]
    assert "requests_per_s" in seen["figures"]
    table = typed(stack, "status").stdout
    assert table.startswith(f"serving  {stack.url}  bert (openvino fp32)")
    assert "documents/s" in table


def test_doctor_finds_nothing_bad_with_a_running_stack(stack):
    outcome = typed(stack, "doctor", "--json")
    findings = {each["about"]: each for each in json.loads(outcome.stdout)}
    assert outcome.returncode == 0, outcome.stdout
    assert f"our service runs (pid {stack.process.pid})" in findings["port"]["seen"]
    assert findings["model"]["verdict"] == "good"


def test_doctor_names_a_damaged_model_file(bert_settings, tmp_path):
    stack = Stack(tmp_path, artifacts_from=bert_settings.state_dir, model=bert_settings.model)
    (file,) = tmp_path.glob("models/*/tokenizer.json")
    file.write_text(file.read_text() + " ")
    outcome = typed(stack, "doctor")
    assert outcome.returncode == 5
    assert f"{file} does not match its manifest" in outcome.stdout


def test_rerank_asks_the_running_service(stack):
    outcome = typed(stack, "rerank", "bees", "--format", "json", "--top-k", "0", input="milk\nbees\nmoon\n")
    reply = json.loads(outcome.stdout)
    assert outcome.returncode == 0, outcome.stderr
    assert sorted(each["content"] for each in reply["results"]) == ["bees", "milk", "moon"]
    elsewhere = typed(stack, "rerank", "bees", input="milk\n", variables={"RERANK_URL": "http://127.0.0.1:1"})
    assert elsewhere.returncode == 1
    assert elsewhere.stderr.startswith("reranking: http://127.0.0.1:1 can't be reached (")


@pytest.mark.slow
def test_every_program_serves_by_the_file_and_systemd_hears_of_it(tmp_path):
    group = grp.getgrgid(os.getgid()).gr_name
    file = tmp_path / "mine.yaml"
    file.write_text(f"engine: stub\napi_keys: [one, two]\nmax_documents: 7\nops_group: {group}\n")
    stack = Stack(tmp_path / "state")
    del stack._environment["RERANK_ENGINE"]
    notify = tmp_path / "notify"
    stack._environment |= {"RERANK_CONFIG": str(file), "NOTIFY_SOCKET": str(notify)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(notify))
        with stack:
            systemd.settimeout(PATIENCE_S)
            assert systemd.recv(100) == b"READY=1"
            key = {"Authorization": "Bearer two"}
            assert (
                requests.get(f"{stack.url}/info", headers=key, timeout=PATIENCE_S).json()["limits"]["max_documents"]
                == 7
            )
            assert requests.get(f"{stack.url}/info", timeout=PATIENCE_S).status_code == 401
            progress = f"{stack.url}/progress"  # the pusher is not waited for long
            wait_for(
                lambda: requests.get(progress, headers=key, timeout=PATIENCE_S).status_code == 200, "the pusher answers"
            )
            assert requests.get(progress, timeout=PATIENCE_S).status_code == 401
            run = stack.state_dir / "run"
            modes = {
                name: stat.S_IMODE((run / name).stat().st_mode) for name in ("supervisor.sock", "webapp-blue.sock", ".")
            }
            assert modes == {"supervisor.sock": 0o770, "webapp-blue.sock": 0o700, ".": 0o710}
            asked = typed(stack, "rerank", "q", input="a\n")
            assert (asked.returncode, asked.stdout.split()[0]) == (0, "1"), asked.stderr
            refused = typed(stack, "rerank", "q", input="a\n", variables={"RERANK_KEY": "wrong"})
            assert (refused.returncode, refused.stderr.split(" says ")[1][:4]) == (1, "401:")


def test_the_systemd_unit_waits_longer_than_the_longest_request():
    from webapp.config.settings import STOP_GRACE_S, Settings

    unit = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#")
    assert int(unit["TimeoutStopSec"]) > 2 * (Settings().request_timeout_s + STOP_GRACE_S)
    assert (unit["Type"], unit["KillMode"]) == ("notify", "mixed")


def test_the_systemd_unit_is_valid(tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/reranking/.venv/bin/reranking", "/bin/true"))
    outcome = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert [line for line in outcome.stderr.splitlines() if UNIT.name in line] == []
