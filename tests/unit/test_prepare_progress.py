"""What a long job tells of its stages, on a terminal and elsewhere."""

import io

import pytest

from webapp.engine.prepare.progress import Stages, line, remaining


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_without_a_terminal_each_stage_is_a_line_and_a_long_one_tells_how_long_it_took():
    lines, clock = [], Clock()
    stages = Stages(3, lines.append, clock=clock)
    with stages.stage(1, "finding it"):
        pass
    with stages.stage(2, "packing it"):
        clock.now += 4.2
        stages.report("a remark")
    assert lines == ["[1/3] finding it", "[2/3] packing it", "a remark", "[2/3] packing it: done in 4.2 s"]


def test_on_a_terminal_a_stage_that_has_ended_is_one_line_with_its_time():
    terminal, clock = io.StringIO(), Clock()
    stages = Stages(2, lambda message: terminal.write(f"{message}\n"), terminal, clock)
    with stages.stage(2, "comparing") as at:
        at(0.5)
        stages.report("a remark")
        clock.now += 3
    assert terminal.getvalue().replace("\r\x1b[K", "").splitlines() == ["a remark", "[2/2] comparing: 3.0 s"]


def test_a_stage_that_fails_leaves_no_bar():
    lines = []
    with pytest.raises(ValueError, match="no"), Stages(1, lines.append).stage(1, "trying"):
        raise ValueError("no")
    assert lines == ["[1/1] trying"]


@pytest.mark.parametrize(
    ("done", "done_after_s", "took_s", "left_s"),
    [
        (0.0, 0, 9, 0),
        (0.5, 1, 9, 0),  # too early to tell
        (0.25, 5, 5, 15),
        (0.25, 5, 12, 8),  # time passes, and the estimate with it
        (0.25, 5, 40, 0),  # it was wrong
        (1, 6, 6, 0),
    ],
)
def test_an_estimate_is_told_only_where_a_good_part_is_done_and_falls_while_time_passes(
    done, done_after_s, took_s, left_s
):
    assert remaining(done, done_after_s, took_s) == left_s


def test_a_bar_shows_the_whole_job():
    assert line("t", 0.25, 9, 15) == "t [#####...............] 9 s, about 15 s more"
    assert line("t", 0, 0.4, 0) == "t [....................] 0 s"
