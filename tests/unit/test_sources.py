"""Where settings come from, and what is said of what is no setting."""

import json
import subprocess
import sys
import traceback
from dataclasses import fields

import pytest

from pusher.settings import ARGUMENTS
from pusher.settings import Settings as PusherSettings
from pusher.settings import load_settings as load_pusher_settings
from webapp.config import reference
from webapp.config.paths import ROOT
from webapp.config.settings import Settings, load_settings, read_settings
from webapp.config.sources import RETIRED, gather
from webapp.domain.errors import SetupError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RERANK_CONFIG")


def write(text, path="reranking.yaml"):
    with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - a relative path, as an operator has it
        file.write(text)


def test_a_file_in_the_working_directory_is_read():
    write("port: 9000\nmodel: mine\nevents: no\n")
    settings = load_settings()
    assert (settings.port, settings.model, settings.events) == (9000, "mine", False)
    assert not settings.model_is_default


def test_a_variable_goes_before_the_file(monkeypatch):
    write("port: 9000\nhost: '::1'\n")
    monkeypatch.setenv("RERANK_PORT", "9001")
    settings = load_settings()
    assert (settings.port, settings.host) == (9001, "::1")


def test_a_named_file_replaces_the_one_in_the_directory(tmp_path, monkeypatch):
    write("port: 9000\n")
    write("port: 9002\n", "other.yaml")
    monkeypatch.setenv("RERANK_CONFIG", str(tmp_path / "other.yaml"))
    assert load_settings().port == 9002


def test_an_empty_name_means_no_file(monkeypatch):
    write("port: 9000\n")
    monkeypatch.setenv("RERANK_CONFIG", "")
    assert load_settings().port == 8080


def test_a_named_file_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setenv("RERANK_CONFIG", "/nowhere.yaml")
    with pytest.raises(SetupError, match=r"/nowhere.yaml can't be read \(No such file"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot: 9000", "prot is no setting; did you mean port"),
        ("RERANK_PORT: 9000", "RERANK_PORT is no setting; did you mean port"),
        ("cache-mb: 3", "cache-mb is no setting; did you mean cache_mb"),
        ("zzzzz: 3", "zzzzz is no setting; `reranking config` lists them"),
        ("port: 1\nport: 2", "port is there twice, again in line 2"),
        ("- port", 'should hold lines of "name: value"'),
        ("port: [", "is not valid YAML"),
        ("? [port]\n: 1", "is not valid YAML"),
        ("model: 123", "should be a valid string; put quotes around it"),
        ("port: http", "port in .*reranking.yaml: Input should be a valid integer"),
        ("max_documents: 60000", "RERANK_MAX_QUEUED_PAIRS .* is below RERANK_MAX_DOCUMENTS"),
        ("events: no\nevents_text: yes", "RERANK_EVENTS_TEXT is on but RERANK_EVENTS is off"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_the_place(text, said):
    write(text)
    with pytest.raises(SetupError, match=said) as refusal:
        load_settings()
    assert "\n" not in str(refusal.value)


def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_one(monkeypatch):
    monkeypatch.setenv("RERANK_BATCH_TOKEN", "3")
    with pytest.raises(SetupError, match="RERANK_BATCH_TOKEN is no setting; did you mean RERANK_BATCH_TOKENS"):
        load_settings()


def test_a_setting_of_an_earlier_version_is_refused_with_its_new_name_or_why_it_is_gone(monkeypatch):
    monkeypatch.setenv("RERANK_COLOUR", "blue")
    with pytest.raises(SetupError, match="RERANK_COLOUR is called RERANK_COLOR now"):
        load_settings()
    monkeypatch.delenv("RERANK_COLOUR")
    monkeypatch.setitem(RETIRED, "threads", "each worker has one")
    write("threads: 4\n")
    with pytest.raises(SetupError, match="threads is gone: each worker has one"):
        load_settings()


def test_what_clients_use_is_left_alone(monkeypatch):
    monkeypatch.setenv("RERANK_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RERANK_KEY", "k")
    load_settings()


def test_a_secret_that_is_wrong_is_not_said():
    write("api_keys: {first: hidden-value}\nmax_documents: 60000\n")
    with pytest.raises(SetupError) as refusal:
        load_settings()
    assert "api_keys in" in str(refusal.value)
    assert "hidden-value" not in "".join(traceback.format_exception(refusal.value))


def test_the_pusher_sees_what_the_webapp_sees(tmp_path, monkeypatch):
    write("api_keys: [one, two]\nlog_level: debug\nport: 9000\ndashboard_origins: https://a.example\n")
    monkeypatch.setenv("RERANK_CONFIG", str(tmp_path / "reranking.yaml"))
    monkeypatch.setenv("RERANK_LOG_LEVEL", "warning")
    webapp, pusher = load_settings(), load_pusher_settings()
    assert webapp.api_keys.get_secret_value() == "one,two"
    assert pusher.api_keys == webapp.api_keys.get_secret_value()
    assert pusher.log_level == webapp.log_level == "warning"
    assert pusher.dashboard_origins == webapp.dashboard_origins == "https://a.example"


def test_every_setting_of_the_pusher_is_one_of_the_webapps():
    assert {field.name for field in fields(PusherSettings)} - set(ARGUMENTS) <= set(Settings.model_fields)


def test_each_value_comes_with_its_source_and_secrets_are_masked(monkeypatch, tmp_path):
    write("cache_mb: 3\napi_keys: hidden-value\n")
    monkeypatch.setenv("RERANK_PORT", "9001")
    monkeypatch.setenv("RERANK_HOST", "::1")
    sources = gather(Settings.model_fields, flags=["host"])
    rows = {row.name: row for row in reference.effective(read_settings(sources), sources)}
    file = str(tmp_path / "reranking.yaml")
    assert (rows["host"].value, rows["host"].origin, rows["host"].place) == ("::1", "flag", "--host")
    assert (rows["port"].value, rows["port"].origin, rows["port"].place) == (9001, "environment", "RERANK_PORT")
    assert (rows["cache_mb"].value, rows["cache_mb"].origin, rows["cache_mb"].place) == (3, "file", file)
    assert (rows["workers"].value, rows["workers"].origin, rows["workers"].place) == (1, "default", "")
    assert rows["api_keys"].value == reference.MASK


def test_a_built_file_gives_the_same_settings_and_explains_each(monkeypatch):
    monkeypatch.setenv("RERANK_PORT", "9001")
    monkeypatch.setenv("RERANK_API_KEYS", "one: #,two")
    monkeypatch.setenv("RERANK_MODEL", "a: 'b' # c")
    sources = gather(Settings.model_fields)
    before = read_settings(sources)
    text = reference.as_file(before, sources)
    for name in ("PORT", "API_KEYS", "MODEL"):
        monkeypatch.delenv(f"RERANK_{name}")
    write(text)
    assert load_settings() == before
    assert "\n# workers: 1\n" in text, "defaults are comments"
    assert all(name in text for name in Settings.model_fields)


def test_the_reference_is_what_the_model_says():
    assert (ROOT / "docs" / "configuration.md").read_text() == reference.as_reference(), (
        "run: reranking config --reference > docs/configuration.md"
    )


def serving_by(setup, monkeypatch):
    """gunicorn_config.py in a process of its own, after `setup`."""
    monkeypatch.setenv("RERANK_WORKERS", "3")
    program = f"{setup}\nimport runpy; print(runpy.run_path({str(ROOT / 'gunicorn_config.py')!r})['workers'])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_wrong_settings_are_one_line_in_the_webapps_log(monkeypatch):
    write("prot: 9000\n")
    outcome = serving_by("", monkeypatch)
    assert outcome.returncode == 1
    line = json.loads(outcome.stderr)
    assert (line["level"], line["service"]) == ("critical", "webapp")
    assert "prot is no setting; did you mean port?" in line["message"]


def test_a_file_that_is_being_edited_does_not_harm_a_running_webapp(monkeypatch):
    """HUP reads gunicorn_config.py again, in a master that has assembled the webapp before."""
    assembled = (
        "import sys, types\n"
        "from webapp.config.settings import load_settings\n"
        "sys.modules['webapp.servers.gunicorn.wsgi'] = types.SimpleNamespace(settings=load_settings())\n"
        "open('reranking.yaml', 'w').write('prot: 9000')"
    )
    assert serving_by(assembled, monkeypatch).stdout == "3\n"


def test_serving_programs_load_neither_click_nor_the_command_line():
    loaded = (
        "import sys, webapp.config.settings; print([m for m in sys.modules if m.startswith(('click', 'webapp.cli'))])"
    )
    outcome = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "[]"


LINKS = {
    "RERANK_SERVICE_HOST": "10.0.0.1",
    "RERANK_SERVICE_PORT": "8080",
    "RERANK_SERVICE_PORT_HTTP": "8080",
    "RERANK_PORT": "tcp://10.0.0.1:8080",
    "RERANK_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "RERANK_PORT_8080_TCP_PROTO": "tcp",
    "RERANK_PORT_8080_TCP_PORT": "8080",
    "RERANK_PORT_8080_TCP_ADDR": "10.0.0.1",
    "RERANK_PLAIN_PORT": "tcp://10.0.0.1:8080",
    "RERANK_GPU_SERVICE_HOST": "10.0.0.1",
}
"""What Kubernetes sets for services named rerank, rerank-plain and rerank-gpu."""


@pytest.mark.parametrize("name", LINKS)
def test_a_service_link_of_kubernetes_is_told_with_its_cure(monkeypatch, name):
    monkeypatch.setenv(name, LINKS[name])
    with pytest.raises(SetupError) as refused:
        load_settings()
    said = str(refused.value)
    assert f"{name}={LINKS[name]} is a variable that Kubernetes sets for a service" in said
    assert "enableServiceLinks: false" in said
    assert "did you mean" not in said
    assert "integer" not in said


def test_all_service_links_together_are_one_sentence(monkeypatch):
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=r"\(and 9 more\) is a variable that Kubernetes sets"):
        load_settings()


def test_a_port_is_no_service_link(monkeypatch):
    monkeypatch.setenv("RERANK_PORT", "9000")
    monkeypatch.setenv("RERANK_PLAIN_PORT", "0")
    assert load_settings().port == 9000
