import json
import logging
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import PATIENCE_S
from supervisor.loggers import handle_boundIO

from contracts.logging.configure import log_config, redact
from contracts.logging.foreign import ours, translate
from contracts.logging.line import FIRST, MOST_BYTES, as_json, level_of, renderer, stamp
from webapp.stack.supervisor.logging import LogStore, OwnLog

values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5).map(lambda text: text * 999) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=20) | st.sampled_from(FIRST), values, max_size=12))
def test_whatever_an_event_holds_its_line_is_short_and_json_and_has_every_field(event):
    line = as_json(event)
    assert len(line.encode()) < MOST_BYTES
    assert "\n" not in line
    assert list(json.loads(line))[: len(FIRST)] == list(FIRST)


def test_times_are_utc_with_milliseconds():
    assert stamp(1795240000.1254) == "2026-11-21T05:46:40.125Z"


@given(st.binary(max_size=300))
def test_whatever_bytes_a_program_writes_they_are_kept_as_a_line_of_our_shape(line):
    kept = LogStore(to_stdout=False, form="json", color="").line(line, "nginx", 7)
    event = json.loads(kept)
    assert kept.endswith(b"}\n")
    assert set(FIRST) <= set(event)


def test_lines_of_our_shape_are_kept_as_they_are():
    line = as_json({"time": "t", "message": "bees", "pid": 3}).encode()
    assert LogStore(to_stdout=False, form="json", color="").line(line, "x", 7) == line + b"\n"


def test_supervisord_says_what_it_says_but_does_not_ask_for_a_password_at_its_private_socket():
    log = OwnLog(LogStore(to_stdout=False, form="json", color=""), logging.INFO)
    handle_boundIO(log, "%(message)s")
    log.critical("Server 'unix_http_server' running without any HTTP authentication checking")
    log.critical("%(name)s was given up", name="webapp")
    (line,) = log.handlers[0].stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "webapp was given up"


def test_nginx_errors_are_told_with_their_own_time_level_and_process_and_without_query_strings():
    line = (
        '2026/11/21 09:50:01 [crit] 32#32: *45 connect() failed, client: ::1, request: "GET /a?key=hidden HTTP/1.1",'
        ' upstream: "http://unix:/run/webapp.sock:/a?key=hidden", referrer: "http://b/c?q=hidden"'
    )
    event = translate(line, service="nginx", color="green", pid=7, now=0)
    assert (event["time"], event["level"], event["pid"]) == ("2026-11-21T09:50:01.000Z", "critical", 32)
    assert (event["logger"], event["connection"], event["color"]) == ("nginx.error", 45, "green")
    assert "hidden" not in str(event)
    assert 'request: "GET /a?… HTTP/1.1"' in event["message"]


@pytest.mark.parametrize("what", ["a client request body", "an upstream response"])
def test_what_nginx_keeps_in_a_file_is_no_warning(what):
    line = f"2026/11/21 09:50:01 [warn] 32#32: *45 {what} is buffered to a temporary file /run/body/1, client: ::1"
    assert translate(line, service="nginx", color="", pid=7, now=0)["level"] == "info"
    other = line.replace("is buffered to a temporary file", "is lost")
    assert translate(other, service="nginx", color="", pid=7, now=0)["level"] == "warning"


def test_what_nginx_says_before_it_has_a_log_is_understood():
    event = translate("nginx: [emerg] bind() failed", service="nginx", color="", pid=7, now=0)
    assert (event["level"], event["logger"], event["message"]) == ("critical", "nginx.error", "bind() failed")


def test_last_words_of_a_process_are_a_warning_of_that_process():
    event = translate("free(): invalid pointer", service="webapp", color="", pid=7, now=0)
    assert (event["level"], event["service"], event["pid"]) == ("warning", "webapp", 7)
    assert ours(as_json(event)) == event


def test_on_a_terminal_lines_are_for_people():
    event = translate("free(): invalid pointer", service="webapp", color="", pid=7, now=0) | {"exception": "E\n  a:1 b"}
    text = renderer("human")(event)
    assert "free(): invalid pointer" in text
    assert text.endswith("E\n  a:1 b")
    assert "\x1b" not in text


def fail_quoting(document):
    try:
        int(document)
    except ValueError as error:
        raise RuntimeError(f"can't read {document}") from error


def test_exceptions_are_told_by_what_and_where_and_never_by_what_they_quote():
    with pytest.raises(RuntimeError) as caught:
        fail_quoting("planted secret")
    told = redact(caught.value)
    assert told.startswith("RuntimeError\n")
    assert "tests/unit/test_log_lines.py" in told
    assert "caused by ValueError" in told
    assert "planted" not in told
    assert "planted" in redact(caught.value, words=True)


def test_errors_of_the_system_and_of_code_say_what_is_wrong():
    assert redact(OSError(28, "whatever")) == "OSError: No space left on device"
    assert redact(ModuleNotFoundError("No module named 'x'")) == "ModuleNotFoundError: No module named 'x'"


def logged(config, record):
    """What our handler makes of a record."""
    formatter = logging.config.DictConfigurator(config).configure_formatter({**config["formatters"]["lines"]})
    return json.loads(formatter.format(record))


def record_of(name, message, *arguments, exc_info=None):
    return logging.LogRecord(name, logging.WARNING, "path", 1, message, arguments, exc_info)


CONFIG = log_config(level="debug", log_format="json", service="webapp", color="blue")


def test_lines_of_libraries_have_our_shape():
    line = logged(CONFIG, record_of("some.library", "%d bees", 3))
    assert list(line) == list(FIRST)
    assert (line["service"], line["color"], line["logger"], line["message"]) == (
        "webapp",
        "blue",
        "some.library",
        "3 bees",
    )


def test_what_gunicorn_read_of_a_bad_request_is_left_out():
    line = logged(CONFIG, record_of("gunicorn.error", "Invalid request from ip=1.2.3.4: Authorization: hidden"))
    assert line["message"] == "Invalid request from ip=1.2.3.4"
    line = logged(CONFIG, record_of("gunicorn.error", "Error handling request %s %s", "GET", "/a?key=hidden"))
    assert line["message"] == "Error handling request GET /a?…"


@pytest.mark.parametrize(
    ("level", "webapp", "gunicorn", "others"),
    [
        ("debug", "DEBUG", "INFO", "WARNING"),
        ("info", "INFO", "INFO", "WARNING"),
        ("error", "ERROR", "ERROR", "ERROR"),
    ],
)
def test_libraries_speak_from_warning_up_for_below_they_quote_what_they_handle(level, webapp, gunicorn, others):
    config = log_config(level=level, log_format="json", service="webapp")
    assert config["loggers"]["webapp"]["level"] == webapp
    assert config["loggers"]["gunicorn.error"]["level"] == gunicorn
    assert config["root"]["level"] == others


UNCAUGHT = """
import _thread, sys
import gevent
from contracts.logging.configure import configure

configure(level="info", log_format="json", service="trial")

def fail():
    raise ValueError("planted")

gevent.spawn(fail).join()
hook, told = sys.unraisablehook, _thread.allocate_lock()
told.acquire()

def tell(what):
    hook(what)
    told.release()

sys.unraisablehook = tell
_thread.start_new_thread(fail, ())
told.acquire()
raise RuntimeError("told, for no request is near")
"""


def test_exceptions_that_nobody_caught_are_lines_of_our_shape_too():
    outcome = subprocess.run(
        [sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    lines = [json.loads(line) for line in outcome.stderr.splitlines()]
    assert [line["message"] for line in lines] == [
        "a greenlet ended",
        "an exception went nowhere",
        "the process ends",
    ]
    assert "planted" not in outcome.stderr
    assert "told, for no request is near" in lines[-1]["exception"]


def test_logging_does_not_import_rich_and_others_still_can():
    program = (
        "import sys, contracts.logging.configure;"
        "print('rich.console' in sys.modules); import rich; print(rich.__name__)"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == ["False", "rich"]


@pytest.mark.parametrize(
    "line",
    [
        "[crit] 7#7: *4 SSL_do_handshake() failed (SSL: error:0A00006C:SSL routines::bad key share), client: 1.2.3.4",
        "[crit] 7#7: *4 SSL_read() failed (SSL: error:0A000126) while waiting for request, client: 1.2.3.4, server: x",
        "[alert] 7#7: *4 open socket #3 left in connection 4",
    ],
)
def test_a_client_that_leaves_is_not_critical_to_nginx(line):
    event = translate(f"2026/11/21 09:50:01 {line}", service="nginx", color="", pid=7, now=0)
    assert event["level"] == "info"


def test_a_line_that_nginx_could_not_write_is_a_warning_of_it():
    line = (
        '2026/11/21 09:50:01 [alert] 7#7: *4 write() to "" failed (11: Resource temporarily unavailable) while logging'
    )
    assert translate(line, service="nginx", color="", pid=7, now=0)["level"] == "warning"


LEFT = """
import errno, os
import gevent
from contracts.logging.configure import configure

configure(level="info", log_format="json", service="trial")

def fail(number):
    raise OSError(number, os.strerror(number))

for number in (errno.EPIPE, errno.ECONNRESET, errno.ENOSPC):
    gevent.spawn(fail, number).join()
"""


def test_a_browser_that_leaves_is_not_critical_and_a_full_disk_is():
    outcome = subprocess.run([sys.executable, "-c", LEFT], capture_output=True, text=True, check=False, timeout=60)
    assert [json.loads(line)["level"] for line in outcome.stderr.splitlines()] == ["info", "info", "critical"]


@pytest.mark.parametrize(
    ("status", "comes_later", "level"),
    [
        *((status, later, "INFO") for status in (200, 204, 304, 499) for later in (False, True)),
        *((status, False, "WARNING") for status in (400, 401, 404, 413, 422, 429)),
        (429, True, "WARNING"),
        (503, True, "WARNING"),
        *((status, False, "ERROR") for status in (424, 500, 502, 503, 504)),
        *((status, True, "ERROR") for status in (424, 500, 504)),
    ],
)
def test_an_access_line_is_as_loud_as_its_status_is_bad(status, comes_later, level):
    assert logging.getLevelName(level_of(status, comes_later=comes_later)) == level


def test_a_line_of_an_older_version_is_ours_and_says_color():
    event = dict.fromkeys(FIRST, "") | {"time": stamp(0), "message": "m"}
    older = {("colour" if name == "color" else name): value for name, value in event.items()} | {"colour": "blue"}
    assert ours(json.dumps(older)) == event | {"color": "blue"}


@pytest.mark.parametrize(
    ("variables", "older"), [({}, False), ({"STACK_VERSION": "1"}, False), ({"STACK_ROOT": "/"}, True)]
)
def test_under_a_supervisord_of_before_an_upgrade_lines_have_the_field_that_it_looks_for(variables, older):
    program = (
        "import logging; from contracts.logging.configure import configure;"
        "configure(level='info', log_format='json', service='webapp', color='blue');"
        "logging.getLogger('webapp').warning('m')"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STACK_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**kept, **variables}, capture_output=True, text=True, check=True
    )
    line = json.loads(done.stderr)
    assert (line["color"], line.get("colour")) == ("blue", "blue" if older else None)
