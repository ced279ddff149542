"""What a long job tells of its stages, on a terminal and elsewhere."""

import io

import pytest

from webapp.engine.prepare.progress import Stages, line


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_without_a_terminal_each_stage_is_a_line_and_a_long_one_tells_how_long_it_took():
    said, clock = [], Clock()
    stages = Stages(3, said.append, clock=clock)
    with stages.stage(1, "finding it"):
        pass
    with stages.stage(2, "packing it"):
        clock.now += 4.2
        stages.say("a remark")
    assert said == ["[1/3] finding it", "[2/3] packing it", "a remark", "[2/3] packing it: done in 4.2 s"]


def test_on_a_terminal_a_stage_that_has_ended_is_one_line_with_its_time():
    terminal, clock = io.StringIO(), Clock()
    stages = Stages(2, lambda message: terminal.write(f"{message}\n"), terminal, clock)
    with stages.stage(2, "comparing") as at:
        at(0.5)
        stages.say("a remark")
        clock.now += 3
    assert terminal.getvalue().replace("\r\x1b[K", "").splitlines() == ["a remark", "[2/2] comparing: 3.0 s"]


def test_a_stage_that_fails_leaves_no_bar():
    said = []
    with pytest.raises(ValueError, match="no"), Stages(1, said.append).stage(1, "trying"):
        raise ValueError("no")
    assert said == ["[1/1] trying"]


@pytest.mark.parametrize(
    ("took_s", "done", "shown"),
    [
        (0.4, 0, "t 0 s"),
        (9, 0, "t 9 s"),
        (1, 0.5, "t [##########..........] 1 s"),
        (6, 0.25, "t [#####...............] 6 s, about 18 s more"),
        (6, 1, "t [####################] 6 s"),
    ],
)
def test_an_estimate_is_told_only_where_a_good_part_is_done(took_s, done, shown):
    assert line("t", took_s, done) == shown
