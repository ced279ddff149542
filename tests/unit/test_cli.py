"""The `reranking` command, as typed."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from running import PATIENCE_S, free_port

from webapp.cli import main, reranking
from webapp.cli.documents import read_documents
from webapp.config.paths import ROOT
from webapp.config.settings import Settings
from webapp.stack.nginx.config import STREAM_REMEDY, Nginx
from webapp.stack.tls import prepare_certificate

ALL = set(reranking.commands)


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Run a command in a directory of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RERANK_CONFIG")
    monkeypatch.setenv("RERANK_STATE_DIR", str(tmp_path / "state"))
    environment = dict(os.environ)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        os.environ.clear()
        os.environ.update(environment)  # flags are put into it
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


def test_help_shows_every_command_with_examples_and_exit_codes(typed):
    code, out, _ = typed("--help")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines() if line.startswith("  ")} >= ALL
    assert "Examples:" in out
    assert "Exit codes:" in out


def test_nothing_typed_shows_the_help_too(typed):
    code, _, err = typed()
    assert code == 2
    assert "Examples:" in err


@pytest.mark.parametrize("command", sorted(ALL))
def test_the_help_of_every_command_teaches_by_example(typed, command):
    code, out, _ = typed(command, "--help")
    assert code == 0
    assert f"\n    reranking {command}" in out or f'\n    eval "$(reranking {command}' in out, out


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["rerank", "--help"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments):
    """What makes it slow is imports; a time would depend on who else uses the machine."""
    program = (
        "import sys\nfrom webapp.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'pydantic', 'gevent', 'numpy', 'msgspec', 'flask', 'urllib.request'} & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert outcome.stdout.splitlines()[-1] == "[]"


def test_serve_itself_loads_no_tensors_and_no_supervisor_for_each_start_waits_for_it():
    program = (
        "import sys, webapp.stack.serve;"
        "print(sorted({'numpy', 'tokenizers', 'flask', 'supervisor'} & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["confg"], 2, "there is no command 'confg'; did you mean config?"),
        (["build"], 2, "there is no command 'build'; it is called reranking config init now"),
        (["config", "--prot", "9"], 2, "No such option '--prot'."),
        (["config", "--engine", "openvno"], 2, "is not one of"),
        (["config", "--port", "http"], 1, "--port: Input should be a valid integer"),
        (["config", "--config", "/nowhere.yaml"], 1, "/nowhere.yaml can't be read"),
        (["config", "--api-keys", "k"], 2, "No such option"),
        (["drain"], 1, "no stack runs in"),
        (["prepare", "--model", "my model"], 1, "RERANK_MODEL: my model is neither a directory nor the id of a model"),
        (["rerank", "q", "/nowhere.txt"], 2, "No such file"),
        (["rerank", "q", "/dev/null"], 1, "/dev/null holds no documents"),
    ],
)
def test_what_goes_wrong_is_one_line_and_an_exit_code(typed, arguments, code, said):
    got, out, err = typed(*arguments)
    assert (got, out) == (code, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("reranking: ")
    assert said in err


def test_config_shows_values_and_their_sources(typed):
    code, out, _ = typed("config", "--json", "--port", "9000", "--no-events")
    settings = json.loads(out)["settings"]
    assert code == 0
    assert settings["port"] == {"value": 9000, "origin": "flag", "place": "--port"}
    assert settings["events"] == {"value": False, "origin": "flag", "place": "--events"}
    assert settings["state_dir"]["place"] == "RERANK_STATE_DIR"
    assert settings["workers"] == {"value": 1, "origin": "default", "place": ""}


def test_config_for_people_shows_what_was_changed(typed, monkeypatch):
    monkeypatch.setenv("RERANK_API_KEYS", "hidden-value")
    code, out, err = typed("config", "--changed")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["state_dir", "api_keys"]
    assert "hidden-value" not in out + err


def test_config_init_writes_a_file_for_its_owner_that_config_reads(typed, tmp_path):
    assert typed("config", "init", "--port", "9000")[0] == 0
    path = tmp_path / "reranking.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    settings = json.loads(typed("config", "--json")[1])["settings"]
    assert settings["port"] == {"value": 9000, "origin": "file", "place": str(path)}
    code, _, err = typed("config", "init")
    assert (code, err) == (1, "reranking: reranking.yaml is there; --force replaces it\n")
    assert typed("config", "init", "--force", "--cache-mb", "0")[0] == 0
    assert "\nport: 9000\n" in path.read_text()
    assert "\ncache_mb: 0\n" in path.read_text()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_is_a_script_for_the_shell(typed, shell):
    code, out, _ = typed("completion", shell)
    assert code == 0
    assert "_RERANKING_COMPLETE" in out


def test_completion_knows_commands_flags_and_choices():
    def offered(*words):
        environment = {
            **os.environ,
            "_RERANKING_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["reranking", *words]),
        }
        environment["COMP_CWORD"] = str(len(words))
        command = [sys.executable, "-c", "from webapp.cli import main; main()"]
        outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return {line.partition(",")[2] for line in outcome.stdout.splitlines()}

    assert offered("st") == {"status", "stop"}
    assert "--engine-threads" in offered("serve", "--eng")
    assert offered("serve", "--precision", "f") == {"fp16", "fp32"}


def test_status_of_a_service_that_is_not_there_is_down(typed):
    code, out, _ = typed("status", "--port", "1", "--json")
    seen = json.loads(out)
    assert (code, seen["health"]) == (4, "down")
    assert "supervisor doesn't answer" in seen["troubles"]


def test_status_looks_again_until_interrupted(tmp_path):
    command = [sys.executable, "-m", "webapp", "status", "--watch", "--every", "0.2", "--json", "--port", "1"]
    environment = {**os.environ, "RERANK_STATE_DIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        seen = [json.loads(watching.stdout.readline())["health"] for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE_S) == 130
        assert watching.stderr.read().strip() == b"", "no traceback"
    assert seen == ["down", "down"]


def test_doctor_names_what_is_bad_with_its_remedy(typed):
    code, out, _ = typed("doctor")
    assert code == 5
    assert "is not prepared" in out
    assert "-> reranking prepare" in out
    code, out, _ = typed(
        "doctor", "--engine", "stub", "--json", "--ops-group", "no-such-group", "--port", str(free_port())
    )
    bad = {each["about"]: each["remedy"] for each in json.loads(out) if each["verdict"] == "bad"}
    assert (code, bad) == (5, {"ops group": "groupadd no-such-group"})


@pytest.mark.parametrize(
    ("stream", "verdict", "remedy"),
    [("", "good", ""), (None, "poor", STREAM_REMEDY)],
    ids=["with streams", "without streams"],
)
def test_doctor_says_whether_nginx_can_bound_the_connections_of_an_address(typed, monkeypatch, stream, verdict, remedy):
    monkeypatch.setattr("webapp.stack.doctor.inspect_nginx", lambda _: Nginx(stream=stream))
    _, out, _ = typed("doctor", "--engine", "stub", "--json")
    (finding,) = [each for each in json.loads(out) if each["about"] == "nginx"]
    assert (finding["verdict"], finding["remedy"]) == (verdict, remedy)


def test_doctor_looks_at_what_others_may_reach_and_at_the_certificate(typed, tmp_path, monkeypatch):
    def findings(*arguments):
        _, out, _ = typed("doctor", "--engine", "stub", "--json", *arguments)
        return {each["about"]: (each["verdict"], each["seen"], each["remedy"]) for each in json.loads(out)}

    here = findings()
    assert (here["keys"][0], here["certificate"][0]) == ("good", "good")
    open_to_all = findings("--host", "0.0.0.0")  # noqa: S104 - nothing listens
    assert open_to_all["keys"][:2] == ("poor", "none: open to everybody")
    assert open_to_all["certificate"] == ("poor", "none: plain http", "set RERANK_TLS_CERT")
    missing = findings("--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key", "--api-keys-file", "/nowhere")
    assert (missing["keys"][0], missing["certificate"][0]) == ("bad", "bad")
    state = tmp_path / "state"
    settings = Settings(tls="self-signed", state_dir=state)
    prepare_certificate(settings)
    assert "is valid until" in findings("--tls", "self-signed", "--state-dir", str(state))["certificate"][1]
    monkeypatch.setattr("webapp.stack.doctor.LEAST_DAYS", 1000)
    late = findings("--tls", "self-signed", "--state-dir", str(state))["certificate"]
    assert (late[0], late[2]) == ("poor", "reranking serve makes another at its start")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\n\n  two \n"),
        ("-", "one\ntwo\n"),
        ("a.json", '["one", {"text": "two"}]'),
        ("-", '{"content": "one"}\n"two"\n'),
        ("a.json", '{"query": "q", "documents": ["one", {"content": "two"}]}'),
        ("a.jsonl", '"one"\n\n{"document": "two"}\n'),
        ("a.csv", "id,text\n1,one\n2,two\n"),
        ("a.csv", "whatever\none\ntwo\n"),
        ("a.txt", "\ufeffone\r\ntwo\r\n"),
    ],
)
def test_documents_are_read_from_the_usual_files(name, content):
    assert read_documents(name, content.encode()) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[1]", "a.json, entry 1: neither a text nor an object"),
        ("a.json", b"{}", "should hold a JSON list"),
        ("a.json", b"[", "is not valid JSON"),
        ("a.jsonl", b'"one"\n{\n', "a.jsonl, line 2, is not valid JSON"),
        ("a.csv", b"a,b\n1,2\n", "has no column named content"),
        ("a.bin", b"\xff\xfe", "is not UTF-8 text"),
        ("a.txt", b"\n \n", "holds no documents"),
    ],
)
def test_a_file_with_something_else_is_refused_with_the_place(name, content, said):
    from click import ClickException

    with pytest.raises(ClickException, match=said):
        read_documents(name, content)


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_rerank_orders_documents_in_process(typed, tmp_path, form):
    documents = ["milk", "bees find their way home by the sun", "nothing here"]
    (tmp_path / "notes.txt").write_text("\n".join(documents))
    code, out, _ = typed("rerank", "bees", "notes.txt", "--local", "--engine", "stub", "--top-k", "2", "--format", form)
    assert code == 0
    if form == "json":
        found = [(each["index"], each["score"], each["content"]) for each in json.loads(out)["results"]]
    elif form == "csv":
        assert out.splitlines()[0] == "rank,index,score,content"
        rows = [line.split(",") for line in out.splitlines()[1:]]
        found = [(int(index), float(score), text) for _, index, score, text in rows]
    else:
        rows = [line.split(maxsplit=3) for line in out.splitlines()]
        found = [(int(index.strip("[]")), float(score), text) for _, score, index, text in rows]
    assert len(found) == 2
    assert found[0][1] >= found[1][1]
    assert all(documents[index] == text for index, _, text in found)


def test_rerank_says_that_an_instruction_has_no_effect(typed, tmp_path):
    (tmp_path / "notes.txt").write_text("milk")
    code, _, err = typed("rerank", "bees", "notes.txt", "--local", "--engine", "stub", "--instruction", "find bees")
    assert (code, "instruction was ignored: this model takes none" in err) == (0, True)


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_reader_of_rerank_that_leaves_gets_no_traceback_and_ascii_is_no_obstacle(tmp_path, form):
    (tmp_path / "notes.txt").write_text("für alle\n" * 3000, encoding="utf-8")
    command = [sys.executable, "-m", "webapp", "rerank", "q", "notes.txt", "--local", "--engine", "stub"]
    command += ["--top-k", "0", "--format", form]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "RERANK_STATE_DIR": str(tmp_path / "state")}
    into = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **into) as running:
        running.stdout.close()
        said = running.stderr.read().decode()
    assert "Error" not in said
    assert running.returncode == 1
    whole = subprocess.run(command, **into, check=True)
    assert "für alle" in whole.stdout.decode()


@pytest.fixture
def service():
    """A service that ranks the second document first, or refuses: (its address, the bodies that it got)."""
    asked, statuses = [], [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(
                (self.headers["Authorization"], json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            )
            results = [{"index": 1, "score": 0.75, "truncated": True}, {"index": 0, "score": 0.25}]
            good = {"results": results, "latency_ms": 1.5, "model": "m", "warnings": ["w"]}
            bad = {"error": {"code": "invalid_request", "message": "no"}}
            self.answer(statuses[0], good if statuses[0] == 200 else bad)

        def do_GET(self):
            self.answer(404, {})  # no progress

        def answer(self, status, value):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked, statuses
        server.shutdown()


def test_rerank_asks_a_service_and_shows_its_answer_in_the_api_s_form(typed, tmp_path, service, monkeypatch):
    url, asked, statuses = service
    (tmp_path / "notes.txt").write_text("milk\nbees")
    monkeypatch.setenv("RERANK_KEY", "k")
    code, out, err = typed("rerank", "q", "notes.txt", "--url", url, "--top-k", "2", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "query": "q",
        "results": [
            {"index": 1, "score": 0.75, "content": "bees", "truncated": True},
            {"index": 0, "score": 0.25, "content": "milk"},
        ],
        "latency_ms": 1.5,
        "model": "m",
        "warnings": ["w"],
    }
    ((authorization, body),) = asked
    assert authorization == "Bearer k"
    assert (body["query"], body["top_k"], len(body["documents"])) == ("q", 2, 2)
    assert "instruction" not in body
    typed("rerank", "q", "notes.txt", "--url", url, "--instruction", "find bees")
    assert asked[-1][1]["instruction"] == "find bees"
    statuses[0] = 400
    code, out, err = typed("rerank", "q", "notes.txt", "--url", url)
    assert (code, out) == (1, "")
    assert err.startswith(f"reranking: {url} says 400: no; request id cli-")
    code, _, err = typed("rerank", "q", "notes.txt", "--url", "nowhere")
    assert (code, err) == (
        1,
        "reranking: nowhere is not an http:// or https:// address; --url or RERANK_URL gives the address\n",
    )


def test_progress_is_told_while_documents_are_scored_in_process(tmp_path):
    from webapp.config.settings import Settings
    from webapp.domain.types import RerankRequest
    from webapp.engine.runtimes.stub import StubSession
    from webapp.servers.local import local_reranker

    documents, told, go_on = [f"document {number}" for number in range(400)], [], threading.Event()

    class Waiting(StubSession):
        def score(self, pairs, length):
            if told or len(pairs) == 1:  # the first score of a session is made before there is anybody to tell
                return super().score(pairs, length)
            go_on.wait(PATIENCE_S)
            return super().score(pairs, length)

    def tell(scored):
        told.append(scored)
        go_on.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("webapp.engine.runtimes.stub.StubSession", Waiting)
        with local_reranker(Settings(engine="stub", state_dir=tmp_path)) as reranker:
            result = reranker.rerank(RerankRequest("q", documents, documents), tell)
    assert len(result.order) == 400
    assert told
    assert all(0 <= scored < 400 for scored in told)
