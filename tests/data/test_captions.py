"""Captions and words of atlas items: true, in the atlas's own words, implanted things called implanted."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.data.atlas import Atlas
from medvista_jax.data.captions import WORDS, Facts, caption, facts_of, questions, side_of, words_in_place
from medvista_jax.data.concepts import CONCEPT, CONCEPTS, STRUCTURES, structure_ids

FAMILIES = ("plane", "modality", "side", "structure_visible", "structure_at_marker", "implant_shape", "implant_stripes")


def items(family: str, count: int = 12):
    return [Atlas("train").item(family, index) for index in range(count)]


@pytest.mark.parametrize("family", ["plane", "modality", "side"])
def test_the_facts_answer_the_atlas_s_own_questions(family):
    for item in items(family, 30):
        assert (item.question, item.answer) in questions(facts_of(item))


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_against_the_label_map(family):
    for item in items(family):
        facts = facts_of(item)
        assert (facts.plane is not None) == item.source.startswith("mni")
        for name in STRUCTURES:
            there = np.isin(item.concepts, structure_ids(name)).sum() >= 60 and facts.plane is not None
            assert there or name not in facts.structures
        for side, names in ((facts.marker, ["marker"]), (facts.target, [c for c in CONCEPTS if "implanted" in c])):
            if side:
                where = np.argwhere(np.isin(item.concepts, [CONCEPT[name] for name in names]))[:, 1].mean()
                assert side == ("left" if where < 128 else "right")


def test_structures_are_named_largest_first():
    sizes = lambda item, name: np.isin(item.concepts, structure_ids(name)).sum()  # noqa: E731
    named = 0
    for item in items("plane", 30):
        areas = [sizes(item, name) for name in facts_of(item).structures]
        assert areas == sorted(areas, reverse=True)
        others = [sizes(item, name) for name in STRUCTURES if name not in facts_of(item).structures]
        assert len(areas) == 3 or max(others) < 60
        named += len(areas)
    assert named > 30


def test_captions_word_for_word():
    assert caption(Facts("ct")) == "CT image."
    assert caption(Facts("film", marker="left")) == "X-ray film. The marker is on the left."
    assert caption(Facts("mr", "axial", target="right", structures=("thalamus", "insula"))) == (
        "Axial MR image of the brain. An implanted target is on the right. Visible: thalamus, insula."
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_only_implanted_things_are_called_so(family):
    said = [caption(facts_of(item)) for item in items(family, 20)]
    told = [text for text in said if "target" in text]
    assert all("implanted target" in text for text in told)
    assert bool(told) == family.startswith("implant_")


def test_a_thing_near_the_midline_has_no_side():
    assert side_of((0, 0, 200, 100)) == "left" and side_of((800, 0, 1000, 100)) == "right"
    assert side_of((430, 0, 530, 100)) is None


def test_a_marker_says_its_side_where_it_lies():
    for item in items("side"):
        grid = words_in_place(item, 8, 6).reshape(8, 6)
        x1, y1, x2, y2 = item.targets[0]
        row, column = int((y1 + y2) / 2000 * 8), int((x1 + x2) / 2000 * 6)
        others = np.abs(np.add.outer(1j * np.arange(8), np.arange(6)) - (column + 1j * row)) >= 2
        assert WORDS[grid[row, column]] == item.answer
        assert not np.isin(grid[others], [WORDS.index("left"), WORDS.index("right")]).any()


def test_words_of_brains_and_of_other_images():
    for item in items("plane"):
        grid = words_in_place(item, 6, 6).reshape(6, 6)
        assert WORDS[grid[0, 0]] == item.answer  # the corner is background
        inside = {WORDS[word] for word in grid.ravel()} - {"", item.answer}
        assert inside <= set(STRUCTURES)
    for item in items("modality"):
        if not item.source.startswith("mni"):
            assert {WORDS[word] for word in words_in_place(item, 4, 4)} == {item.answer}
    for item in items("implant_shape"):
        assert WORDS.index("target") in words_in_place(item, 8, 8)
