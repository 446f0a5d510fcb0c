import io

import pytest

from medvista_jax.runtime.progress import Progress, duration


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_plain_lines_are_rare_and_tell_the_time_left():
    clock, stream = Clock(), io.StringIO()
    with Progress(stream, clock=clock) as progress, progress.stage("seed 0", 2) as outer:
        with progress.stage("SFT", 21) as stage:
            clock.now += 30  # compilation, in the first step
            stage.advance(loss=1.0)
            for _ in range(20):
                clock.now += 1
                stage.advance(loss=0.25)
        outer.advance()
    assert stream.getvalue().splitlines() == [
        "[seed 0] starts, 2 steps",
        "[seed 0 › SFT] starts, 21 steps",
        "[seed 0 › SFT] 1/21, 0:30 gone, loss 1",
        # The pace leaves the compilation out: 15 steps of a second each are left, not 15 of six.
        "[seed 0 › SFT] 6/21, 0:35 gone, 0:15 left, loss 0.25",
        "[seed 0 › SFT] 11/21, 0:40 gone, 0:10 left, loss 0.25",
        "[seed 0 › SFT] 16/21, 0:45 gone, 0:05 left, loss 0.25",
        "[seed 0 › SFT] done: 21/21, 0:50 gone, loss 0.25",
        "[seed 0] 1/2, 0:50 gone",
        "[seed 0] stopped: 1/2, 0:50 gone",
    ]


def test_a_resumed_stage_estimates_from_its_own_steps():
    clock = Clock()
    with Progress(io.StringIO(), clock=clock) as progress, progress.stage("GRPO", 100, done=50) as stage:
        stage.advance()
        assert stage.seconds_left() is None
        clock.now += 4
        stage.advance(2)
        assert stage.seconds_left() == 47 * 2


def test_ctrl_c_gives_the_cursor_back():
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        with Progress(stream, live=True) as progress, progress.stage("[brackets]", 3) as stage:
            stage.advance(reward="[/red]")
            raise KeyboardInterrupt
    drawn = stream.getvalue()
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert hide in drawn and drawn.rindex(show) > drawn.rindex(hide)
    assert "[brackets]" in drawn and "[/red]" in drawn


def test_durations():
    assert [duration(s) for s in (0, 59.6, 61, 3600 + 125)] == ["0:00", "1:00", "1:01", "1:02:05"]
