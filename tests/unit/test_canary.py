"""How each color answers, from nginx' log, and whether the new one is as good."""

import subprocess
import sys

import pytest

from webapp.domain.errors import SetupError
from webapp.stack.nginx.traffic_split import PERCENTS, shares_for
from webapp.stack.releases import canary


def answers(count, *, share=0, by="blue", status=200, ms=10):
    line = f"100.500 0.020 webapp_{share} {by} {status} {ms / 1000:.3f}"
    return canary.parse([line] * count)


def test_lines_of_the_traffic_log_and_rubbish_between_them():
    found = canary.parse(["100.5 0.5 webapp_3 - 502 0.001, 0.002", "torn webapp_", "", "1.0 0.1 webapp_0 blue 200 -"])
    assert [(each.share, each.by, each.status, each.began, each.took_ms) for each in found] == [
        (3, "", 502, 100.0, 3.0),
        (0, "blue", 200, 0.9, 0.0),
    ]


@pytest.mark.parametrize(
    ("line", "outcome"),
    [
        ("1.0 0.1 webapp_0 green 200 0.1", "answered"),
        ("1.0 0.1 webapp_0 green 404 0.1", "answered"),
        ("1.0 0.1 webapp_0 green 200 0.001, 0.1", "answered"),
        ("1.0 0.1 webapp_0 green 503 0.1", "full"),
        ("1.0 0.1 webapp_0 green 500 0.1", "failed"),
        ("1.0 0.1 webapp_0 blue 200 0.000, 0.000, 0.000, 0.1", "misrouted"),
        ("1.0 0.1 webapp_0 blue 500 0.001, 0.1", "failed"),
        ("1.0 0.1 webapp_0 - 503 0.001, 0.002, 0.000, 0.000", "failed"),  # nginx' 502 is told as 503
        ("1.0 0.1 webapp_0 - 502 0.001", "failed"),
        ("1.0 30.1 webapp_0 - 504 30.001", "failed"),
        ("1.0 0.1 webapp_0 - 400 0.001", None),  # gunicorn refuses what is no HTTP
        ("1.0 0.1 webapp_0 - 499 -", None),
        ("1.0 0.1 webapp_0 - 499 0.1", None),
        ("1.0 0.1 webapp_0 - 499 0.001, 0.1", None),
        ("1.0 0.1 webapp_0 green 499 0.1", None),  # after the head of the reply
        ("1.0 0.1 webapp_0 - 499 -, -", None),
        *((f"1.0 0.1 webapp_0 - {status} -", None) for status in (400, 408, 413, 414, 429, 444, 500, 503)),
    ],
)
def test_a_request_counts_for_the_color_that_was_asked_and_for_none_that_was_not(line, outcome):
    (answer,) = canary.parse([line])
    assert answer.outcome("green") == outcome


def test_callers_that_hang_up_and_what_nginx_refuses_veto_no_release_and_hide_no_failure():
    nobody = canary.parse(["100.5 0.02 webapp_0 - 499 -", "100.5 0.02 webapp_0 - 413 -"] * 200)
    assert "50 requests, 0 failed" in canary.judge_alone([*nobody, *answers(50, by="green")], "green")
    with pytest.raises(SetupError, match="fail"):
        canary.judge_alone([*nobody, *answers(2, by="green", status=500), *answers(98, by="green")], "green")
    lines = [f"100.5 0.02 webapp_{share} - {status} -" for share in range(len(PERCENTS)) for status in (499, 413)]
    said = judged(
        lambda _: canary.parse(lines * 50),
        lambda mine: answers(50, share=mine, by="green"),
        lambda _: answers(400),
    )
    assert said.startswith("new: 50 requests, 0 failed")
    assert "old: 400 requests, 0 failed" in said


def test_a_body_that_was_on_its_way_when_the_share_was_given_back_counts_for_no_color():
    """A request goes to a color when its body is whole: to the old one by then."""
    mine = min(shares_for(10))
    slow = canary.parse([f"{ended} 5.000 webapp_{mine} blue 200 0.010" for ended in (99, 101, 102, 103)])
    _, new = canary.samples([*answers(20, share=mine, by="green"), *slow], "green", 10, until=100)
    assert (new.requests, new.failures) == (21, 1), "the first had its chance"


def judged(*parts):
    mine = min(shares_for(10))
    found = [each for part in parts for each in part(mine)]
    return canary.judge(*canary.samples(found, "green", 10))


def test_a_canary_as_good_as_the_old_color_passes():
    assert "new: 50 requests, 0 failed" in judged(
        lambda mine: answers(50, share=mine, by="green", ms=12), lambda _: answers(400)
    )


@pytest.mark.parametrize(("by", "status"), [("green", 500), ("-", 502), ("-", 503), ("-", 504), ("blue", 200)])
def test_a_canary_that_fails_more_is_refused_even_if_the_old_color_answered_for_it(by, status):
    with pytest.raises(SetupError, match="fails more often"):
        judged(
            lambda mine: answers(3, share=mine, by=by, status=status),
            lambda mine: answers(20, share=mine, by="green"),
            lambda _: answers(200),
        )


def test_one_failure_decides_nothing_nor_do_failures_of_both():
    judged(
        lambda mine: answers(1, share=mine, by="green", status=500),
        lambda mine: answers(30, share=mine, by="green"),
        lambda _: answers(200),
    )
    judged(
        lambda mine: answers(10, share=mine, by="green", status=503),
        lambda mine: answers(10, share=mine, by="green"),
        lambda _: [*answers(100, status=503), *answers(100)],
    )


def test_a_canary_that_is_slower_is_refused_unless_there_is_too_little_to_judge_by():
    with pytest.raises(SetupError, match="slower"):
        judged(lambda mine: answers(50, share=mine, by="green", ms=100), lambda _: answers(400))
    assert "too few" in judged(lambda mine: answers(5, share=mine, by="green", ms=100), lambda _: answers(400))


@pytest.mark.parametrize(("fast", "slow", "refused"), [(19, 2, False), (17, 4, False), (16, 5, True), (93, 7, True)])
def test_a_canary_with_a_slow_tail_is_refused_but_a_few_slow_requests_are_no_tail(fast, slow, refused):
    parts = (
        lambda mine: answers(fast, share=mine, by="green"),
        lambda mine: answers(slow, share=mine, by="green", ms=78),
        lambda _: answers(21),
    )
    if refused:
        with pytest.raises(SetupError, match="slower"):
            judged(*parts)
    else:
        assert f"new: {fast + slow} requests" in judged(*parts)


def test_alone_a_color_may_be_full_but_must_answer():
    canary.judge_alone([*answers(50, by="green", status=503), *answers(50, by="green")], "green")
    with pytest.raises(SetupError, match="requests fail"):
        canary.judge_alone([*answers(2, by="green", status=500), *answers(50, by="green")], "green")
    with pytest.raises(SetupError, match="did not reach it"):
        canary.judge_alone([*answers(20, by="blue"), *answers(50, by="green")], "green")


def test_the_log_is_switched_on_for_as_long_as_somebody_compares(tmp_path):
    switch, log = tmp_path / canary.SWITCH, tmp_path / canary.LOG
    since = canary.start(tmp_path)
    assert switch.is_file()
    with log.open("a") as of_nginx:  # which never opens it again
        of_nginx.write(f"{since.began + 1} 0.5 webapp_0 blue 200 0.1\n1.0 0.5 webapp_0 blue 200 0.1\n")
        of_nginx.flush()
        assert len(canary.read(tmp_path, since)) == 1, "what began before is not of the comparison"
        canary.stop(tmp_path)
        canary.stop(tmp_path)
        assert not switch.exists()
        assert canary.read(tmp_path, since) == []
        since = canary.start(tmp_path)
        of_nginx.write(f"{since.began + 1} 0.5 webapp_0 blue 200 0.1\n")
        of_nginx.flush()
        assert len(canary.read(tmp_path, since)) == 1


_COMPARING = """
import pathlib, sys
from webapp.stack.releases import canary
canary.start(pathlib.Path(sys.argv[1]))
print(flush=True)
sys.stdin.read()
"""


def test_a_killed_comparison_switches_the_log_off(tmp_path):
    comparing = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _COMPARING,
            tmp_path,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    comparing.stdout.readline()
    assert (tmp_path / canary.SWITCH).is_file()
    comparing.kill()
    comparing.communicate()
    assert not (tmp_path / canary.SWITCH).exists()
