"""Every family's teacher, played through the gym: no fault, the right answer, the images and readings it is after."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.data.atlas import FAMILIES, Atlas
from medvista_jax.data.teachers import TeacherConfig, measured_box, teach
from medvista_jax.environment.episodes import Episodes
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.tools.registry import ALL_TOOLS, DEFAULT_TOOLS
from tests import tiny

TOOLS = ("zoom_in", "adjust_window", "pan_compare", "region_statistics", "count_objects", "distance")
WANTED = {
    "none": {()},
    "detail": {("zoom_in",)},
    "zoom": {("zoom_in",)},
    "several": {("pan_compare",), ("zoom_in", "zoom_in")},
    "window": {("adjust_window",)},
    "brighter": {("region_statistics",) * 2},
    "larger": {("count_objects",) * 2},
}
ITEMS = 6
SURE = TeacherConfig(noise=0, shift=0, direct=0, wrong_first=0, grid=1)
"""A teacher who measures at the true place."""


@pytest.fixture(scope="module")
def atlas():
    return Atlas("train")


@pytest.fixture(scope="module")
def episodes():
    return Episodes(tools=TOOLS, rows=ITEMS, view_size=64, turns=3, turn_bytes=256)


def called(script: list[str]) -> tuple[str, ...]:
    return tuple(re.findall(r'"name": "(\w+)"', " ".join(script)))


def play(episodes: Episodes, items, scripts):
    """The replies of every item, turn by turn."""
    for row, item in enumerate(items):
        episodes.start(row, item)
    heard: list[list] = [[] for _ in items]
    for turn in range(3):
        said = {row: script[turn] for row, script in enumerate(scripts) if turn < len(script)}
        for row, reply in episodes.step(said).items():
            heard[row].append(reply)
    return heard


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_script_plays_as_intended(atlas, episodes, family):
    items = [atlas.item(family, index) for index in range(ITEMS)]
    rng = np.random.default_rng(1)
    scripts = [teach(item, rng, TeacherConfig(direct=0), TOOLS, 3) for item in items]
    heard = play(episodes, items, scripts)
    need = FAMILIES[family].needs
    for item, script, replies in zip(items, scripts, heard, strict=True):
        looked = called(script)
        each_place = need == "detail" and looked == ("zoom_in",) * len(item.targets)
        wrong_first = looked == ("zoom_in", "zoom_in") and need in ("zoom", "detail") and "not there" in script[1]
        assert looked in WANTED[family if need == "measure" else need] or wrong_first or each_place
        assert [reply.fault for reply in replies] == [Fault.NONE] * len(script)
        assert all(reply.well_formed for reply in replies)
        shown = [reply.image_index for reply in replies[:-1]]
        images = [tool in ("zoom_in", "adjust_window", "pan_compare") for tool in looked]
        assert shown == [sum(images[: at + 1]) if image else None for at, image in enumerate(images)]
        assert replies[-1].done and replies[-1].correct and not replies[-1].truncated
    assert len({tuple(script) for script in scripts}) > 1


def readings(replies, pattern: str) -> list[float]:
    return [float(re.search(pattern, reply.text)[1]) for reply in replies[:-1]]


@pytest.mark.parametrize(
    ("family", "tools", "pattern"),
    [
        ("brighter", TOOLS, r"mean (-?[\d.]+)"),
        ("larger", TOOLS, r"mean area ([\d.]+)"),
        ("larger", ("distance",), r"distance ([\d.]+)"),
    ],
)
def test_what_is_measured_at_the_true_place_says_the_answer(atlas, episodes, family, tools, pattern):
    """The teacher's evidence, read off the tools' own words, is evidence: the first is of a, the second of b."""
    for first in range(0, 24, ITEMS):
        items = [atlas.item(family, first + index) for index in range(ITEMS)]
        scripts = [teach(item, np.random.default_rng(0), SURE, tools, 3) for item in items]
        for item, replies in zip(items, play(episodes, items, scripts), strict=True):
            a, b = readings(replies, pattern)
            assert ("a" if a > b else "b") == item.answer, (item.id, a, b)


def test_a_zoom_at_the_true_place_shows_the_target(atlas, episodes):
    """The returned view is the crop of the original around the target, enlarged."""
    items = [atlas.item("implant_shape", index) for index in range(ITEMS)]
    scripts = [teach(item, np.random.default_rng(0), SURE, TOOLS, 3) for item in items]
    for item, script, replies in zip(items, scripts, play(episodes, items, scripts), strict=True):
        x1, y1, x2, y2 = map(int, re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", script[0]).groups())
        t = item.targets[0]
        assert x1 <= t[0] and y1 <= t[1] and x2 >= t[2] and y2 >= t[3]
        left, top = round(x1 * 0.256), round(y1 * 0.256)
        crop = item.pixels[top : top + 64, left : left + 64, 0].astype(float)
        assert np.abs(replies[0].image[..., 0].astype(float) - crop).mean() < 6  # boxes are thousandths, not pixels


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_tool_a_teacher_uses_another_or_answers(atlas, family):
    specs = [tool.spec for tool in ALL_TOOLS.values()]
    items = [atlas.item(family, index) for index in range(4)]
    for offered in ((), ("flip",), *((tool,) for tool in TOOLS), tuple(ALL_TOOLS)):
        for turns in (1, 2, 3, 4):
            for item in items:
                script = teach(item, np.random.default_rng(2), TeacherConfig(), offered, turns)
                assert len(script) <= turns and set(called(script)) <= set(offered)
                parsed = [parse_turn_text(specs, turn.encode(), 256, 64) for turn in script]
                assert all(one.well_formed and one.fault == Fault.NONE for one in parsed)
                assert parsed[-1].answer.decode() == item.answer
                assert max(len(tiny.TOKENIZER.encode(turn)) for turn in script) <= 64


@pytest.mark.parametrize(
    ("family", "offered", "turns", "tools"),
    [
        ("larger", ("distance",), 3, ("distance", "distance")),
        ("larger", ("count_objects",), 2, ()),  # one measurement tells nothing
        ("brighter", ("count_objects", "distance"), 3, ()),
        ("same_shape", ("pan_compare",), 2, ("pan_compare",)),
        ("same_shape", ("pan_compare", "zoom_in"), 2, ("pan_compare",)),
        ("same_shape", ("zoom_in",), 3, ("zoom_in", "zoom_in")),
        ("lesion_ct", ("zoom_in",), 3, ()),
        ("implant_shape", ("adjust_window",), 3, ()),
    ],
)
def test_fall_backs(atlas, family, offered, turns, tools):
    assert called(teach(atlas.item(family, 0), np.random.default_rng(0), SURE, offered, turns)) == tools


def test_measured_boxes_are_moved_by_a_share_of_their_side():
    rng, config = np.random.default_rng(0), TeacherConfig()
    boxes = np.array([measured_box((400, 400, 462.5, 462.5), rng, config) for _ in range(2000)])  # 16 pixels
    move = (boxes[:, :2] - 400) * 0.256
    np.testing.assert_allclose(move.mean(0), config.shift / 4, atol=0.35)
    np.testing.assert_allclose(move.std(0), config.noise / 4, atol=0.25)
    for target in ((0, 0, 30, 20), (960, 980, 1000, 1000)):
        for _ in range(200):
            x1, y1, x2, y2 = measured_box(target, rng, config)
            assert 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000


def test_the_default_tools_are_taught_as_before(atlas):
    """Texts and random stream of the packaged run: 240 items, with tools and without, one to three turns."""
    digest, rng = hashlib.sha256(), np.random.default_rng(5)
    for pair in atlas.plan(240):
        item = atlas.item(*pair)
        for offered in (True, False):
            for turns in (1, 2, 3):
                digest.update(repr(teach(item, rng, TeacherConfig(), offered, turns)).encode())
    digest.update(repr(rng.random(3)).encode())
    assert digest.hexdigest()[:16] == "17430e1a737637ca"
    item = atlas.item("same_shape", 0)
    lessons = [
        teach(item, np.random.default_rng(0), TeacherConfig(), names, 3) for names in (True, tuple(DEFAULT_TOOLS))
    ]
    assert lessons[0] == lessons[1]
