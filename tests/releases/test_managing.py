"""`restart`, `stop`, `reload`, `logs`, `status` and `doctor`, typed where nothing but the state directory is known."""

import json
import os
import subprocess
import sys

import psutil
import pytest
from browsing import browser, needs_chromium, page
from load_kit import ClosedLoop
from release_stack import ReleaseStack
from running import PATIENCE_S, wait_for

from webapp.stack.releases import state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """A stack all of whose settings are flags of `serve`, with a release in either color."""
    stack = ReleaseStack(tmp_path_factory.mktemp("managing") / "own")
    stack._environment = stack._terminal()
    stack.command = ("serve", "--port", str(stack.port), "--engine", "stub", "--cache-mb", "0")
    with stack:
        code, said = stack.reranking("deploy", "--again", "--watch", "0")
        assert code == 0, said
        yield stack


def programs(stack):
    seen = json.loads(stack.reranking("status", "--json")[1])
    return {each["name"]: (each["role"], each["state"]) for each in seen["programs"]}, seen["troubles"]


def test_commands_find_the_stack_by_its_state_directory_wherever_it_listens(stack):
    code, said = stack.reranking("status", "--json")
    seen = json.loads(said)
    assert (code, seen["health"], seen["url"]) == (0, "serving", stack.url)
    assert seen["model"]["engine"] == "stub"
    code, said = stack.reranking("doctor", "--json")
    found = {each["about"]: each for each in json.loads(said)}
    assert code == 0, said
    assert f"127.0.0.1:{stack.port}, our service runs (pid {stack.process.pid})" == found["port"]["seen"]
    assert found["model"]["verdict"] == "poor", "the stub, and not a model that is not prepared"
    code, said = stack.reranking("rerank", "bees", "--format", "json", input="a bee\nmilk\n")
    assert (code, json.loads(said)["model"]) == (0, "stub")


def test_a_flag_of_the_command_lies_over_what_the_stack_says(stack):
    code, said = stack.reranking("status", "--port", "1", "--json")
    assert (code, json.loads(said)["url"]) == (4, "http://127.0.0.1:1")


def test_commands_reach_a_stack_with_tls_and_keys_by_its_state_directory(tmp_path):
    stack = ReleaseStack(tmp_path / "own", api_keys="one")
    stack.command = ("serve", "--tls", "self-signed", "--host", "::1", "--engine", "stub")
    with stack:
        code, said = stack.reranking("status", "--json")
        assert (code, json.loads(said)["url"]) == (0, f"https://[::1]:{stack.port}")
        code, said = stack.reranking("rerank", "bees", input="a bee\n")
        assert code == 0, said
        assert stack.reranking("stop")[0] == 0
        assert stack.process.wait(PATIENCE_S) == 0
        code, said = stack.reranking("stop")
        assert (code, said.startswith("reranking: no stack runs in ")) == (1, True)


def test_restart_restarts_the_color_that_serves_and_no_request_is_lost(stack):
    active = stack.colors()["active"]
    master = stack.pid_of("webapp")
    with ClosedLoop(stack, 8) as crowd:
        code, said = stack.reranking("restart")
        assert code == 0, said
        crowd.more()
    assert set(crowd.outcomes) == {"good"}, crowd.outcomes
    assert said.splitlines()[0].startswith(f"webapp-{active} restarts")
    assert stack.colors()["active"] == active
    assert stack.pid_of("webapp") not in {None, master}
    assert programs(stack)[0][f"webapp-{stack.colors()['idle']}"] == ("idle", "STOPPED")


def test_restart_takes_single_programs(stack):
    before = {name: stack.pid_of(name) for name in ("webapp", "pusher", "metrics", "nginx")}
    code, said = stack.reranking("restart", "pusher", "nginx")
    assert code == 0, said
    after = {name: stack.pid_of(name) for name in before}
    assert {name for name in before if before[name] != after[name]} == {"pusher", "nginx"}


@pytest.mark.parametrize(
    ("name", "refusal"),
    [("postgres", "there are webapp, compare, metrics, nginx, pusher"), ("webapp-{idle}", "webapp-{idle} is idle")],
    ids=["unknown", "idle"],
)
def test_restart_refuses_a_program_that_it_can_t_restart_and_names_what_there_is(stack, name, refusal):
    idle = stack.colors()["idle"]
    code, said = stack.reranking("restart", name.format(idle=idle))
    assert code == 1
    assert refusal.format(idle=idle) in said


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"RERANK_WORKERS": "none"}, "RERANK_WORKERS: Input should be a valid integer"),
        ({"RERANK_ENGINE": "native"}, "reranking deploy"),
    ],
    ids=["a wrong value", "a model that is not prepared"],
)
def test_a_restart_that_could_not_come_up_again_is_refused_and_the_old_process_serves(stack, settings, refusal):
    master, file = stack.pid_of("webapp"), stack.state_dir / ".colors"
    colors, whole = state.read(stack.state_dir), file.read_bytes()
    state.write(stack.state_dir, colors.with_release(colors.active, state.Release(number=2, settings=settings)))
    try:
        code, said = stack.reranking("restart")
    finally:
        file.write_bytes(whole)
    assert code == 1
    assert refusal in said
    assert stack.pid_of("webapp") == master


def test_an_idle_color_that_supervisorctl_started_is_warned_of_with_the_command_that_stops_it(stack):
    idle = f"webapp-{stack.colors()['idle']}"
    assert programs(stack) == (
        {
            f"webapp-{stack.colors()['active']}": ("active", "RUNNING"),
            idle: ("idle", "STOPPED"),
            **dict.fromkeys(("pusher", "metrics", "nginx"), ("", "RUNNING")),
        },
        [],
    )
    remedy = f"reranking stop {idle}"

    def warns(line):
        return line["level"] == "warning" and remedy in line["message"]

    warned = sum(map(warns, stack.log_lines("supervisord")))
    stack.supervisorctl("restart", idle)
    code, said = stack.reranking("status")
    assert code == 3
    assert f"{idle} is idle, yet it runs" in said
    assert remedy in said
    found = {each["about"]: each for each in json.loads(stack.reranking("doctor", "--json")[1])}["colors"]
    assert (found["verdict"], found["remedy"]) == ("poor", remedy)
    assert stack.logged("supervisord", warns, count=warned + 1), "the log has it from the moment of the start"
    assert stack.reranking(*remedy.split()[1:]) == (0, f"{idle} has stopped\n")
    assert programs(stack)[1] == []


@needs_chromium
def test_an_open_dashboard_holds_up_neither_a_restart_of_nginx_nor_the_stop_of_the_stack(tmp_path):
    with ReleaseStack(tmp_path / "own", engine="stub") as stack, browser() as chromium, page(chromium) as opened:
        opened.goto(f"{stack.url}/dashboard")
        opened.wait_for_selector('#connection[data-level="good"]')
        assert stack.reranking("restart", "nginx", timeout=PATIENCE_S)[0] == 0
        opened.wait_for_selector('#connection[data-level="good"]')
        assert stack.stop() == 0, "which waits for less than nginx would"
    said = [line["message"] for line in stack.log_lines("supervisord")]
    ends = {each.split()[1]: each for each in said if each.startswith(("stopped: ", "exited: "))}  # the last of each
    assert ends.keys() == {"pusher", "nginx", "metrics", "webapp-blue"}
    assert all("exit status 0" in end for end in ends.values()), ends  # none had to be killed


@pytest.mark.parametrize("name", ["webapp-{active}", "nginx", "webapp"])
def test_stop_refuses_to_stop_only_a_part_of_what_serves(stack, name):
    code, said = stack.reranking("stop", name.format(active=stack.colors()["active"]))
    assert code == 1
    assert "to stop the whole stack: reranking stop" in said
    assert stack.rerank().status_code == 200


def test_the_color_that_a_deploy_starts_is_no_trouble(stack):
    deploying = stack.begin_command("deploy", "--again", "--watch", "60")
    for line in deploying.stdout:
        if line.strip().startswith("switch"):
            break
    roles, troubles = programs(stack)
    assert troubles == []
    assert {state for role, state in roles.values() if role == "idle"} <= {"RUNNING", "STARTING"}
    assert "another deploy runs" in stack.reranking("restart")[1]
    deploying.terminate()
    deploying.communicate(timeout=PATIENCE_S)
    assert programs(stack)[1] == []


@pytest.mark.parametrize(
    "arguments",
    [(), ("--set", "CACHE_MB=0"), ("--canary", "10"), ("--dry-run",)],
    ids=["alone", "an equal setting", "canary", "dry run"],
)
def test_a_second_deploy_of_the_same_thing_changes_nothing_and_starts_nothing(stack, arguments):
    colors, pids = stack.colors(), [stack.pid_of("webapp"), *stack.workers()]
    code, said = stack.reranking("deploy", *arguments)
    assert code == 0
    assert said.startswith(f"nothing changes: {colors['active']} serves release "), said
    assert stack.colors() == colors
    assert [stack.pid_of("webapp"), *stack.workers()] == pids


def test_a_deploy_again_of_the_same_thing_goes_by_a_new_color(stack):
    assert "by a new color" in stack.reranking("deploy", "--again", "--dry-run")[1]


def test_a_settings_file_that_was_written_since_is_a_change(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("engine: stub\n")
    stack = ReleaseStack(tmp_path / "own")
    stack._environment = stack._terminal() | {"RERANK_CONFIG": str(file), "RERANK_PORT": str(stack.port)}
    with stack:
        assert "nothing changes" in stack.reranking("deploy", "--dry-run")[1]
        file.write_text("engine: stub\nmax_documents: 7\n")
        assert "by a new color" in stack.reranking("deploy", "--dry-run")[1]


def test_the_history_marks_what_serves(stack):
    assert stack.reranking("deploy", "--again", "--watch", "0")[0] == 0
    assert stack.reranking("rollback")[0] == 0
    lines = stack.reranking("deploy", "--history")[1].splitlines()
    starred = [line for line in lines if line.startswith("* ")]
    assert len(starred) == 1
    assert "rolled back" in starred[0]
    assert lines.index(starred[0]) == len(lines) - 2
    assert " serving " not in "\n".join(lines), "releases that came before are told as past"


def test_a_deploy_says_no_counter_twice(stack):
    code, said = stack.reranking("deploy", "--again", "--watch", "0", "--canary", "10", "--for", "4")
    assert code == 0, said
    assert sum("% of requests" in line for line in said.splitlines()) == 1, said


def test_reload_replaces_the_workers_and_refuses_a_bad_key_file_first(stack, tmp_path):
    workers = stack.workers()
    code, said = stack.reranking("reload")
    assert code == 0, said
    wait_for(lambda: stack.workers() and not {*workers} & {*stack.workers()}, "new workers")
    (tmp_path / "keys").write_text("rubbish\n")
    workers = stack.workers()
    code, said = stack.reranking("reload", "--api-keys-file", str(tmp_path / "keys"))
    assert code == 1
    assert "RERANK_API_KEYS_FILE" in said
    assert stack.workers() == workers


def test_logs_show_one_request_in_all_programs_in_order_of_time_and_follow(stack):
    assert stack.rerank(headers={"X-Request-Id": "look-for-me"}).status_code == 200

    def lines(*arguments):
        return [json.loads(line) for line in stack.reranking("logs", *arguments)[1].splitlines()]

    wait_for(lambda: len(lines("--request", "look-for-me", "webapp", "nginx")) == 2, "both access lines")
    assert {line["service"] for line in lines("--request", "look-for-me")} == {"webapp", "nginx"}
    some = lines("-n", "50")
    assert [line["time"] for line in some] == sorted(line["time"] for line in some)
    assert {line["level"] for line in lines("-n", "500", "--level", "warning")} <= {"warning", "error", "critical"}
    with subprocess.Popen(
        [sys.executable, "-m", "webapp", "logs", "-f", "-n", "0", "nginx"],
        env=stack._terminal(),
        stdout=subprocess.PIPE,
    ) as following:
        path = os.path.realpath(stack.state_dir / "log" / "nginx.log")
        wait_for(lambda: path in [each.path for each in psutil.Process(following.pid).open_files()], "it follows")
        stack.rerank(headers={"X-Request-Id": "come-later"})
        while json.loads(following.stdout.readline())["request_id"] != "come-later":
            pass
        following.terminate()
    code, said = stack.reranking("logs", "postgres")
    assert (code, "there is no log of 'postgres'" in said) == (1, True)
