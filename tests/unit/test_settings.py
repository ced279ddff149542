import re
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from webapp.config.reference import as_reference
from webapp.config.settings import LONGEST_SOCKET_PATH_BYTES, RELOADABLE, Settings, load_settings
from webapp.domain.errors import SetupError
from webapp.stack.nginx.config import balancer_conf, inspect_nginx, nginx_conf
from webapp.stack.preflight import check_program, check_pusher, find_nginx
from webapp.stack.tls import prepare_certificate


def test_defaults_need_nothing_set():
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.model_is_default


def test_naming_the_default_model_counts_as_naming_it(monkeypatch):
    monkeypatch.setenv("RERANK_MODEL", "cross-encoder/ms-marco-MiniLM-L6-v2")
    assert not load_settings().model_is_default


@pytest.mark.parametrize(
    ("name", "value"),
    [("API_KEYS", " , "), ("REDIS_URL", "pass:word@host"), ("EVENTS_KEY", "31-characters-are-not-enough-31")],
)
def test_a_secret_that_can_t_be_right_is_named_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(f"RERANK_{name}", value)
    with pytest.raises(SetupError, match=f"RERANK_{name}") as caught:
        load_settings()
    assert value not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RERANK_PORT", "http"),
        ("RERANK_PRECISION", "fp64"),
        ("RERANK_WORKERS", "0"),
        ("RERANK_STATE_DIR", "/" + "x" * 120),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=name):
        load_settings()


def test_a_setting_is_declared_with_whether_new_workers_can_take_it_over_and_its_reference_says_so():
    assert {"workers", "max_documents", "log_level"} <= RELOADABLE
    assert RELOADABLE.isdisjoint({"port", "model", "request_timeout_s"})
    marked = re.findall(r"^\| `(\w+)` \|.*\| reload \|", as_reference(), re.MULTILINE)
    assert set(marked) == RELOADABLE


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"STACKS": "10.0.0.7:8080"}, "'10.0.0.7:8080' is not http://host:port"),
        ({"STACKS": "http://10.0.0.7"}, "is not http://host:port"),
        ({"STACKS": "http://a:1,https://b:1", "STACKS_CA": "ca.pem"}, "all of them"),
        ({"STACKS": "https://a:1"}, "RERANK_STACKS_CA"),
        ({"STACKS": "http://a:1", "STACKS_CA": "ca.pem"}, "RERANK_STACKS_CA"),
        ({"BALANCERS": "the balancer"}, "RERANK_BALANCERS"),
        ({"PUSHER_URL": "https://pusher:8081"}, "RERANK_PUSHER_URL"),
        ({"PUSHER_URL": "http://pusher"}, "RERANK_PUSHER_URL"),
        ({"PUSHER_URL": "http://pusher:8081/path"}, "RERANK_PUSHER_URL"),
        ({"EVENTS_ENDPOINT": "tcp://pusher"}, "'tcp://pusher' is not tcp://host:port"),
        ({"EVENTS_ENDPOINT": "tcp://127.0.0.1:1;10.0.0.1:5557"}, "is not tcp://host:port"),
        (
            {"EVENTS_ENDPOINT": "tcp://10.0.0.5:5557"},
            "without RERANK_EVENTS_KEY, all that reach tcp://10.0.0.5:5557",
        ),
        ({"EVENTS_ENDPOINT": "tcp://127.0.0.1.example:5557"}, "without RERANK_EVENTS_KEY"),
        ({"EVENTS_ENDPOINT": "tcp://[::]:5557"}, "without RERANK_EVENTS_KEY"),
    ],
)
def test_stacks_and_balancers_that_can_t_be_meant_are_named(monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(f"RERANK_{name}", value)
    with pytest.raises(SetupError, match=said):
        load_settings()


@pytest.mark.parametrize(
    "endpoint", ["", "ipc:///run/events.sock", "tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1"]
)
def test_events_that_stay_on_this_machine_need_no_key(monkeypatch, endpoint):
    monkeypatch.setenv("RERANK_EVENTS_ENDPOINT", endpoint)
    assert load_settings().events_endpoint == endpoint


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pusher_url": "http://pusher:8081"}, "RERANK_EVENTS_ENDPOINT does not say where that pusher hears events"),
        (
            {"events_endpoint": "tcp://127.0.0.1:1"},
            "RERANK_PUSHER_URL does not say where that pusher answers followers",
        ),
    ],
)
def test_a_stack_whose_events_go_to_one_pusher_and_its_followers_to_another_is_refused(settings, said):
    with pytest.raises(SetupError, match=said):
        check_pusher(Settings(**settings))
    for whole in ({}, {"pusher_url": "http://pusher:8081", "events": False}):
        check_pusher(Settings(**whole))


@pytest.mark.parametrize("character", ['"', "\\", "$", "%", "\n", "\t", "\udcff"])
@pytest.mark.parametrize("name", ["state_dir", "tls_cert", "tls_key", "acme_webroot", "stacks_ca"])
def test_a_path_that_can_t_be_quoted_is_refused_with_its_character(monkeypatch, name, character):
    monkeypatch.setenv(f"RERANK_{name.upper()}", f"/srv/a{character}b")
    with pytest.raises(SetupError) as refused:
        load_settings()
    assert f"RERANK_{name.upper()}: {character!r} can't stand in a path" in str(refused.value)


def test_a_path_with_anything_that_can_be_quoted_is_taken(monkeypatch):
    monkeypatch.setenv("RERANK_STATE_DIR", "/srv/My Data; {é'#}&!()[]*?~")
    assert load_settings().state_dir == Path("/srv/My Data; {é'#}&!()[]*?~")


@pytest.fixture
def short_folder():
    """A folder whose path leaves room for that of a socket; pytest's own may not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", ["stack", "balancer"])
def test_nginx_accepts_every_path_that_a_setting_accepts(short_folder, kind):
    state_dir = short_folder / ";{é'#}&!()[ ]*?~"
    (state_dir / "run" / "nginx").mkdir(parents=True)
    settings = Settings(state_dir=state_dir, tls="self-signed")
    prepare_certificate(settings)
    nginx = find_nginx()
    if kind == "stack":
        conf = nginx_conf(settings, inspect_nginx(nginx))
    else:
        stacks = {"stacks": "https://127.0.0.1:1", "stacks_ca": str(state_dir / "tls" / "cert.pem")}
        conf = balancer_conf(settings.model_copy(update=stacks), inspect_nginx(nginx))
    (state_dir / "nginx.conf").write_text(conf)
    tried = subprocess.run(
        [nginx, "-t", "-q", "-e", "stderr", "-c", state_dir / "nginx.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, tried.stderr


def test_a_program_where_it_can_t_be_quoted_is_named():
    with pytest.raises(SetupError, match=r"'/opt/50%/python': '%' can't stand in a path"):
        check_program("/opt/reranking", "/opt/50%/python")


def test_the_longest_state_directory_leaves_room_for_supervisor_s_socket_and_one_byte_more_is_refused(tmp_path):
    longest = next(
        tmp_path / ("x" * length)
        for length in range(60)
        if len(str(tmp_path / ("x" * length) / "run" / "supervisor.sock")) == LONGEST_SOCKET_PATH_BYTES
    )
    settings = Settings(state_dir=longest)
    settings.run_dir.mkdir(parents=True)
    for name in ("supervisor.sock.4194304", "webapp-green.sock", "metrics.sock", "fallback.sock"):  # the largest pid
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(settings.run_dir / name))
    with pytest.raises(ValidationError, match="too long for the unix sockets"):
        Settings(state_dir=f"{longest}x")
