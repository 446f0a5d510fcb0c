"""Scripted teachers: well-formed turns, boxes inside the frame, faults as often as configured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medvista_jax.core.types import Fault, Kind
from medvista_jax.data.teachers import TeacherConfig, noisy_box, random_box, teach, zoom_box
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny
from tests.data.test_questions import make_item

SPECS = [tool.spec for tool in DEFAULT_TOOLS.values()]
CONFIG = TeacherConfig()
KINDS = {
    "zoom": make_item(0, needs="zoom", targets=((400, 600, 440, 640),)),
    "detail": make_item(0, needs="detail", targets=((0, 0, 20, 20),)),
    "several": make_item(0, needs="several", targets=((0, 960, 40, 1000), (700, 100, 760, 160))),
    "window": make_item(0, needs="window", targets=((1, 2, 3, 4),), good_window=(1000, 1100)),
    "none": make_item(0, needs="none", targets=()),
    "measure": make_item(0, needs="measure", targets=((1, 2, 3, 4),)),
}


def lessons(kind: str, count: int = 1500, config: TeacherConfig = CONFIG, tools: bool = True, turns: int = 3):
    rng = np.random.default_rng(0)
    return [teach(KINDS[kind], rng, config, tools, turns) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_every_turn_is_well_formed_and_within_bounds(kind, turns):
    for script in lessons(kind, 60, turns=turns):
        assert 1 <= len(script) <= turns
        parsed = [parse_turn_text(SPECS, turn.encode(), 256, 64) for turn in script]
        assert all(p.well_formed and p.fault == Fault.NONE for p in parsed)
        assert [p.kind for p in parsed] == [Kind.CALL] * (len(script) - 1) + [Kind.ANSWER]
        assert parsed[-1].answer.decode() == KINDS[kind].answer  # the true answer, always
        assert all(len(tiny.TOKENIZER.encode(turn)) <= 48 for turn in script)  # the environment's default
        for call in parsed[:-1]:
            if SPECS[call.tool].name == "zoom_in":
                x1, y1, x2, y2, index = call.arguments
                assert 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000 and index == 0
                assert x2 - x1 == y2 - y1 == 250  # 64 of 256 pixels
            else:
                assert call.arguments == (1000, 1100, 0, 0)


@pytest.mark.parametrize(("kind", "looks"), [("zoom", 1), ("several", 2), ("window", 1)])
def test_shares_of_direct_answers(kind, looks):
    """1,500 draws: the standard error of a share of 0.25 is 0.011; four of them are allowed."""
    scripts = lessons(kind)
    direct = np.mean([len(script) == 1 for script in scripts])
    assert abs(direct - CONFIG.direct) < 0.045
    assert {len(script) for script in scripts} <= {1, looks + 1, 3}


def test_share_of_wrong_first_looks():
    """Of the questions that are looked at, a tenth begins at a wrong place."""
    scripts = [script for script in lessons("zoom") if len(script) > 1]
    wrong = [script for script in scripts if len(script) == 3]
    assert abs(len(wrong) / len(scripts) - CONFIG.wrong_first) < 0.036
    assert all("not there" in script[1] for script in wrong)


def test_no_tools_no_calls():
    for kind in KINDS:
        assert {len(script) for script in lessons(kind, 20, tools=False)} == {1}
    assert {len(script) for kind in ("none", "measure") for script in lessons(kind, 20)} == {1}


def test_boxes_are_shifted_and_noisy_as_configured():
    rng = np.random.default_rng(1)
    fine = dataclasses.replace(CONFIG, grid=1)
    middle = (490, 490, 510, 510)
    boxes = np.array([noisy_box(middle, rng, fine) for _ in range(2000)]).astype(float)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 * 256 / 1000
    np.testing.assert_allclose(centre.mean(0) - 128, CONFIG.shift, atol=1.6)  # 4 standard errors, and clipping
    np.testing.assert_allclose(centre.std(0), CONFIG.noise, atol=1.2)


def test_boxes_stay_inside_the_frame_on_the_grid():
    rng = np.random.default_rng(2)
    for _ in range(500):
        box = random_box(rng, CONFIG)
        assert min(box) >= 0 and max(box) <= 1000 and all(value % 50 == 0 for value in box)
    assert zoom_box((-50.0, 2000.0), CONFIG) == [0, 750, 250, 1000]
    assert zoom_box((500.0, 512.0), CONFIG) == [400, 400, 650, 650]  # 375 and 387 to the grid of 50, half to even


def test_same_generator_same_lessons():
    assert lessons("zoom", 30) == lessons("zoom", 30)
