"""Log files read together; files as supervisor writes and rotates them."""

import contextlib
import json

import pytest

from contracts.logging.line import as_json
from webapp.domain.errors import SetupError
from webapp.stack import log_files


def line(second, message="m", level="info", request_id=""):
    return as_json(
        {
            "time": f"2026-01-01T00:00:{second:06.3f}Z",
            "level": level,
            "message": message,
            "request_id": request_id,
        }
    )


@pytest.fixture
def log_dir(tmp_path):
    for name in ("nginx", "webapp-blue", "webapp-green"):
        (tmp_path / f"{name}.log").touch()
    return tmp_path


def write(log_dir, name, *lines):
    with (log_dir / name).open("a") as file:
        file.writelines(f"{each}\n" for each in lines)


def messages(lines):
    return [json.loads(each)["message"] for each in lines]


def test_the_last_lines_of_all_programs_are_in_order_of_time(log_dir):
    write(log_dir, "nginx.log", line(1, "a"), line(3, "c"), line(5, "e"))
    write(log_dir, "webapp-blue.log", line(2, "b"), line(4, "d"))
    files = log_files.files_of(log_dir, ())
    assert messages(log_files.last(files, 4, log_files.Filter().takes)) == ["b", "c", "d", "e"]
    assert log_files.last(files, 0, log_files.Filter().takes) == []


def test_lines_are_chosen_by_request_and_level(log_dir):
    write(
        log_dir, "nginx.log", line(1, "a", request_id="x"), line(2, "mentions x"), line(3, "b", "error", "x"), "no JSON"
    )
    files = log_files.files_of(log_dir, ["nginx"])
    assert messages(log_files.last(files, 9, log_files.Filter("x").takes)) == ["a", "b"]
    assert messages(log_files.last(files, 9, log_files.Filter("x", "warning").takes)) == ["b"]
    assert messages(log_files.last(files, 9, log_files.Filter("", "critical").takes)) == []
    assert "no JSON" in log_files.last(files, 9, log_files.Filter().takes)


@pytest.mark.parametrize(("most", "expected"), [(3, "bcd"), (9, "abcd")])
def test_rotated_files_are_read_as_far_as_needed(log_dir, most, expected):
    write(log_dir, "nginx.log.10", line(1, "a"))
    write(log_dir, "nginx.log.2", line(2, "b"))
    write(log_dir, "nginx.log.1", line(3, "c"))
    write(log_dir, "nginx.log", line(4, "d"))
    files = log_files.files_of(log_dir, ["nginx"])
    assert "".join(messages(log_files.last(files, most, log_files.Filter().takes))) == expected


def test_files_are_named_by_program_and_webapp_stands_for_both_colors(log_dir):
    assert [path.stem for path in log_files.files_of(log_dir, ["webapp", "webapp-blue"])] == [
        "webapp-blue",
        "webapp-green",
    ]
    with pytest.raises(SetupError, match="there are logs of nginx, webapp-blue, webapp-green"):
        log_files.files_of(log_dir, ["postgres"])
    with pytest.raises(SetupError, match="RERANK_LOG_TO"):
        log_files.files_of(log_dir / "nowhere", ())


def test_what_is_appended_is_followed_over_a_rotation_and_no_line_is_lost_or_told_by_half(log_dir):
    write(log_dir, "nginx.log", line(0, "before"))
    seen = []

    def half():
        with (log_dir / "nginx.log").open("a") as file:
            file.write(line(1, "halved")[:20])

    def whole():
        with (log_dir / "nginx.log").open("a") as file:
            file.write(line(1, "halved")[20:] + "\n")

    def rotate():
        write(log_dir, "nginx.log", line(2, "last of the old"))
        (log_dir / "nginx.log").rename(log_dir / "nginx.log.1")
        write(log_dir, "nginx.log", line(3, "first of the new"))

    def away():
        (log_dir / "nginx.log").rename(log_dir / "nginx.log.1")

    steps = [half, lambda: seen.append("waited"), whole, rotate, away]
    steps += [
        lambda: write(log_dir, "nginx.log", line(4, "after a gap")),
        lambda: write(log_dir, "nginx.log", line(5, "end")),
    ]
    files, wanted = [log_dir / "nginx.log"], log_files.Filter().takes
    with contextlib.closing(log_files.follow(files, wanted, lambda _: steps.pop(0)())) as lines:
        while seen[-1:] != ["end"]:
            seen += messages([next(lines)])
    assert seen == ["waited", "halved", "last of the old", "first of the new", "after a gap", "end"]


def rotate(log_dir, older):
    """As supervisord does, where there are so many older files."""
    for number in range(older, 0, -1):
        (log_dir / f"nginx.log.{number}").rename(log_dir / f"nginx.log.{number + 1}")
    (log_dir / "nginx.log").rename(log_dir / "nginx.log.1")


def test_what_is_appended_is_followed_over_several_rotations_at_once(log_dir):
    write(log_dir, "nginx.log", line(0, "before"))
    rotate(log_dir, older=0)
    write(log_dir, "nginx.log", line(1, "before, too"))
    seen = []

    def burst():
        for older, name in enumerate(["a", "b", "c"], 1):
            write(log_dir, "nginx.log", line(older + 1, name))
            rotate(log_dir, older)
        write(log_dir, "nginx.log", line(9, "d"))

    def clear():
        (log_dir / "nginx.log").unlink()
        write(log_dir, "nginx.log", line(10, "end"))

    steps = [burst, lambda: None, clear]
    files, wanted = [log_dir / "nginx.log"], log_files.Filter().takes
    with contextlib.closing(log_files.follow(files, wanted, lambda _: steps.pop(0)())) as lines:
        while seen[-1:] != ["end"]:
            seen += messages([next(lines)])
    assert seen == ["a", "b", "c", "d", "end"]


def test_a_rotation_while_files_are_read_tells_no_line_twice(log_dir):
    write(log_dir, "nginx.log", line(1, "a"))
    rotate(log_dir, older=0)
    write(log_dir, "nginx.log", line(2, "b"), line(3, "c"))
    taken = []

    def takes(text):
        if not taken:
            rotate(log_dir, older=1)
            write(log_dir, "nginx.log", line(4, "d"))
        taken.append(text)
        return True

    assert messages(log_files.last([log_dir / "nginx.log"], 9, takes)) == ["a", "b", "c"]
