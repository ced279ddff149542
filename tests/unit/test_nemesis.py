"""scripts/nemesis judges rightly, and writes its table where it belongs."""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest
from nemesis.clients import Client, Clients
from nemesis.fault import Fault
from nemesis.judging import Excuse, Reply, Verdict, judge
from nemesis.known import CHARS, Known, lengthened
from nemesis.row import Row
from nemesis.run import in_random_order, merged
from nemesis.table import BEGIN, END, table, write_into

SAID = json.dumps({"error": {"code": "overloaded"}}).encode()
LATER = {"Retry-After": "1"}


def accepts(body):
    return "" if body == b"right" else "it is another's"


def verdict(got, **options):
    return judge(got, accepts, **options)[0]


def test_a_200_is_right_or_wrong():
    assert verdict(Reply(200, {}, b"right")) == Verdict.RIGHT
    assert verdict(Reply(200, {}, b"another")) == Verdict.WRONG
    assert judge(Reply(200, {}, b"{"), json.loads)[0] == Verdict.WRONG, "it can't be read"


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_has_a_reason_and_says_when_to_come_again(status):
    assert verdict(Reply(status, LATER, SAID)) == Verdict.REFUSED
    assert verdict(Reply(status, {}, SAID)) == Verdict.LOST
    assert verdict(Reply(status, {"Retry-After": "0"}, SAID)) == Verdict.LOST
    assert verdict(Reply(status, LATER, b"<html>")) == Verdict.LOST


def test_a_deadline_that_is_over_is_a_refusal_and_other_errors_are_not():
    assert verdict(Reply(504, {}, SAID)) == Verdict.REFUSED
    assert {verdict(Reply(status, LATER, SAID)) for status in (400, 404, 413, 500, 502)} == {Verdict.LOST}


def test_a_full_disk_excuses_an_error_for_what_is_large_alone():
    excuse = Excuse(large=frozenset({500}))
    assert verdict(Reply(500, {}, SAID), excuse=excuse, large=True) == Verdict.REFUSED
    assert verdict(Reply(500, {}, SAID), excuse=excuse) == Verdict.LOST


def test_a_connection_that_ends_is_cut_where_that_is_excused_and_a_hang_is_lost_everywhere():
    assert verdict(ConnectionResetError()) == Verdict.LOST
    assert verdict(ConnectionResetError(), excuse=Excuse(cut=True)) == Verdict.CUT
    assert verdict(TimeoutError(), excuse=Excuse(cut=True)) == Verdict.LOST


class Service(ThreadingHTTPServer):
    """Answers each request by `reply(request)`, both decoded."""

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(self.server.reply(asked)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


DOCUMENTS = [lengthened(f"document {number} ", CHARS) for number in range(80)]
SCORES = [(number * 37 % 80) / 80 for number in range(80)]


def answer(asked):
    """Return the right reply."""
    texts = [each["content"] for each in asked["documents"]]
    best = sorted(range(len(texts)), key=lambda place: -SCORES[DOCUMENTS.index(texts[place])])
    results = [
        {"index": place, "score": SCORES[DOCUMENTS.index(texts[place])], "content": texts[place]} for place in best
    ]
    return {"query": asked["query"], "results": results[: asked["top_k"] or None]}


def other_score(asked):
    reply = answer(asked)
    reply["results"][-1]["score"] += 1e-9
    return reply


def other_text(asked):
    reply = answer(asked)
    reply["results"][0]["content"] = reply["results"][1]["content"]
    return reply


def other_order(asked):
    reply = answer(asked)
    reply["results"].reverse()
    return reply


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer, Verdict.RIGHT),
        (other_score, Verdict.WRONG),
        (other_text, Verdict.WRONG),
        (other_order, Verdict.WRONG),
        (lambda asked: answer(asked) | {"query": "a stranger's"}, Verdict.WRONG),
        (lambda asked: answer(asked) | {"results": []}, Verdict.WRONG),
    ],
    ids=["right", "score", "text", "order", "query", "none"],
)
def test_a_wrong_answer_is_found_and_counted_with_the_fault_that_went_on(reply, expected):
    known = Known(["the query"], DOCUMENTS, [SCORES])
    with Service(reply) as service:
        port = service.server_address[1]
        clients = Clients(f"http://127.0.0.1:{port}", known, seed=1)
        window = clients.open("a fault", Excuse())
        client = Client(clients, "small", port, 1, known.small)
        assert client.once(known.small(random.Random(2))) == expected
    assert window.met == {expected: 1}
    assert not clients.calm.met
    assert len(window.problems) == (expected == Verdict.WRONG)


def test_the_same_seed_is_the_same_order_and_each_section_comes_early():
    faults = [Fault(section, f"{section} {n}", None) for section in "abc" for n in range(5)]
    orders = [[each.name for each in islice(in_random_order(faults, random.Random(seed)), 15)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert {name[0] for name in orders[0][:3]} == set("abc")
    assert len(set(orders[0])) == 15


def test_rows_of_a_fault_add_up():
    both = merged(Row("a", 3, lost=1, longest_s=2.0, note="x"), Row("a", 4, wrong=2, longest_s=1.0, broken="it ended"))
    assert (both.requests, both.lost, both.wrong, both.longest_s, both.times) == (7, 1, 2, 2.0, 2)
    assert not both.holds


def test_the_table_replaces_what_stands_between_its_marks(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    for _ in range(2):
        write_into(path, table([Row("a kill", 12, longest_s=1.25, before="24 s")]))
    page = path.read_text()
    assert page.startswith(f"before\n{BEGIN}\n\n| fault |")
    assert page.endswith(f"|\n\n{END}\nafter\n")
    assert "| a kill | 1 | 12 | 0 | 0 | 0 | 0 | 1.2 | yes | 24 s |" in page
    assert "old" not in page
    path.write_text("no marks")
    with pytest.raises(ValueError, match="needs the lines"):
        write_into(path, "x")
