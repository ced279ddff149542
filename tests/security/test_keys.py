"""Nobody comes in without a key: whatever it looks like, however the path is written, by whichever door."""

import json
import subprocess
import sys

import pytest
import socketio
from running import PATIENCE_S, wait_for
from securing import BODY

from contracts.api_keys import new_key

pytestmark = pytest.mark.slow


@pytest.fixture
def right(secured):
    return secured.keys["search"]


@pytest.mark.parametrize("name", ["search", "ops", "setting-2"])
def test_a_key_opens_and_its_name_is_in_the_log(secured, name):
    reply = secured.ask(key=name)
    assert reply.status_code == 200
    number = reply.headers["X-Request-Id"]

    def lines():
        return [line for line in secured.stack.log_lines("webapp") if line.get("request_id") == number]

    assert [line["key"] for line in wait_for(lines, "the line")] == [name]


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "x",
        "{right}x",
        "x{right}",
        "{half}",
        "{upper}",
        "{right} {right}",
        "{right},{right}",
        "sha256:{hash}",
        "{hash}",
        "search",
        "{long}",
        "\xff\xfe",
        "%00{right}",
        "{new}",
    ],
)
@pytest.mark.parametrize("header", ["X-Api-Key", "Authorization"])
def test_a_wrong_key_does_not(secured, right, header, wrong):
    line = secured.key_file.read_text().split()[1]
    given = wrong.format(
        right=right,
        half=right[: len(right) // 2],
        upper=right.upper(),
        hash=line.removeprefix("sha256:"),
        long="k" * 7000,
        new=new_key(),
    )
    reply = secured.ask(headers={header: f"Bearer {given}" if header == "Authorization" else given})
    assert reply.status_code == 401
    assert reply.json()["code"] == "unauthorized"


def test_a_key_that_fits_in_no_header_is_refused_before_it_is_read(secured):
    reply = secured.ask(headers={"X-Api-Key": "k" * 20_000})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


PATHS = [
    "//rerank",
    "/rerank/",
    "///rerank//",
    "/./rerank",
    "/%72erank",
    "/rerank%2f",
    "/%2frerank",
    "/health/../rerank",
    "/health/%2e%2e/rerank",
    "/docs/../rerank",
    "/docs/%2e%2e/rerank",
    "/docs/..%2frerank",
    "/docs/assets/../../rerank",
    "/dashboard/../rerank",
    "/rerank/../dashboard/",
    "/dashboard/..%2frerank",
    "/socket.io/../rerank",
    "/rerank;/health",
    "/rerank?/health",
    "/rerank%00",
    "/rerank%20",
    "/RERANK",
    "/health#/../rerank",
    "http://localhost/rerank",
    "http://localhost//rerank",
    "/infinity//rerank",
    "/v1/rerank/",
    "/",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"])
def test_no_spelling_of_a_path_leads_past_the_key(secured, method, path):
    answer = secured.literal(method, path, **{"Content-Type": "application/json"})
    assert answer.status != 200 or b'"results"' not in answer.body
    if method == "POST":
        assert answer.status in {400, 401, 404, 405, 501}


def test_a_key_opens_another_spelling_of_a_path(secured):
    assert secured.literal("POST", "//rerank", **{"X-Api-Key": secured.keys["search"]}).status == 200


@pytest.mark.parametrize(
    "override", ["X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Prefix"]
)
def test_no_header_turns_an_open_path_into_a_guarded_one(secured, override):
    answer = secured.ask("GET", "/health", headers={override: "POST" if "Method" in override else "/info"})
    assert "model" not in answer.json()
    assert secured.ask("POST", "/rerank", headers={override: "GET"}).status_code == 401


@pytest.mark.parametrize("path", ["/info", "/models", "/v1/models", "/meta", "/progress", "/progress/x"])
def test_what_describes_the_service_needs_a_key(secured, path):
    assert secured.ask("GET", path).status_code == 401
    assert secured.ask("GET", path + "/").status_code in {401, 404}


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs"])
def test_probes_and_the_documentation_need_no_key(secured, path):
    assert secured.ask("GET", path).status_code == 200


@pytest.mark.parametrize("key", [None, "", "wrong", 7, ["x"], {"key": "x"}])
def test_socket_io_without_a_key_is_refused(secured, key):
    client, refusals = socketio.Client(http_session=secured.session(), reconnection=False), []
    client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(secured.url, auth={"key": key}, transports=["polling"])
    client.disconnect()
    assert refusals == [{"message": "unauthorized"}]


def test_a_socket_without_a_key_receives_no_data(secured):
    """Engine.IO opens the transport before Socket.IO asks for the key: events sent in between lead nowhere."""
    url = f"{secured.url}/socket.io/?EIO=4&transport=polling"
    session = secured.session()
    sid = json.loads(session.get(url, timeout=PATIENCE_S).text[1:])["sid"]
    for packet in ('42["watch"]', '42["follow","x"]', '40{"key":"wrong"}', '42["watch"]'):
        session.post(f"{url}&sid={sid}", data=packet, timeout=PATIENCE_S)
    heard = session.get(f"{url}&sid={sid}", timeout=PATIENCE_S).text
    assert "snapshot" not in heard
    assert "unauthorized" in heard


@pytest.mark.parametrize(
    ("name", "answer"),
    [("search", {"ok": False, "error": "forbidden"}), ("ops", {"ok": True})],
    ids=["search", "ops"],
)
def test_socket_io_with_a_key_connects_and_only_an_operator_watches(secured, name, answer):
    client = socketio.Client(http_session=secured.session(), reconnection=False)
    client.connect(secured.url, auth={"key": secured.keys[name]}, transports=["polling"])
    assert client.call("watch") == answer
    client.disconnect()


def test_hup_lets_new_keys_in_and_taken_ones_out_and_loses_no_request(secured):
    """And a line that is no key opens nothing, and hides no other."""

    def keys(*arguments):
        command = [sys.executable, "-m", "webapp", "keys", *arguments, "--file", str(secured.key_file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    before, statuses = secured.key_file.read_text(), set()
    try:
        secured.keys["late"] = keys("add", "late")
        assert secured.ask(key="late").status_code == 401
        with secured.key_file.open("a") as file:
            file.write("no key at all\n")
        secured.stack.process.send_signal(1)

        def is_in():
            statuses.add(secured.ask(key="search").status_code)
            return secured.ask(key="late").status_code == 200

        wait_for(is_in, "the new key opens")
        assert keys("remove", "late") == ""
        secured.stack.process.send_signal(1)
        wait_for(lambda: secured.ask(key="late").status_code == 401, "it no longer opens")
        assert statuses == {200}
    finally:
        secured.key_file.write_text(before)
    assert secured.stack.logged("webapp", lambda line: "left out" in line["message"] and "line 6" in line["message"])


def test_no_key_is_in_any_file_but_our_own_in_its_private_place(secured):
    secured.ask(key="search")
    secured.ask(headers={"X-Api-Key": "rrk_planted-and-wrong"})
    secured.ask(headers={"Authorization": "Bearer rrk_planted-and-wrong"}, data=BODY[:-3])
    files = [path for path in secured.stack.state_dir.rglob("*") if path.is_file() and not path.is_symlink()]
    holders = {path.name for path in files if any(secret in path.read_bytes() for secret in (b"rrk_",))}
    assert holders == {"own.key"}
    assert (secured.stack.state_dir / "run" / "own.key").stat().st_mode & 0o777 == 0o600
    assert (secured.stack.state_dir / "run").stat().st_mode & 0o777 == 0o700
