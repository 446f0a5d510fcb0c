"""The atlas as a whole: determinism, contract, balance, nothing to read off the question."""

import collections
import hashlib
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from medvista_jax.data.atlas import CANVAS, CONCEPTS, FAMILIES, Atlas, main
from medvista_jax.data.splits import SPLITS

NEEDS = {"none", "zoom", "detail", "window", "several", "measure"}


def digest(item) -> str:
    parts = (
        item.pixels.tobytes(),
        item.concepts.tobytes(),
        repr((item.id, item.source, item.window)).encode(),
    )
    text = repr((item.question, item.options, item.answer, item.targets, item.good_window)).encode()
    return hashlib.sha256(b"".join(parts) + text).hexdigest()


def digests(split: str, seed: int = 0) -> list[str]:
    atlas = Atlas(split, seed=seed)
    return [digest(atlas.item(family, index)) for family in atlas.families for index in (0, 7)]


def test_an_item_depends_on_seed_split_family_and_index_only():
    atlas = Atlas("train")
    forward = [digest(atlas.item("implant_shape", index)) for index in range(6)]
    backward = [digest(Atlas("train", ["implant_shape"]).item("implant_shape", index)) for index in reversed(range(6))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 6
    assert digests("train") != digests("train", seed=1)
    assert not set(digests("validation")) & set(digests("train"))


def test_another_process_makes_the_same_bytes():
    code = (
        f"import sys; sys.path[:0] = [{str(pathlib.Path(__file__).parent)!r}, *{sys.path!r}]; "
        "from test_atlas import digests; print(*digests('test'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == digests("test")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_item_keeps_the_contract(split, family):
    atlas = Atlas(split)
    kind = FAMILIES[family]
    assert kind.needs in NEEDS and len(CONCEPTS) <= 48
    for index in range(12):
        item = atlas.item(family, index)
        assert item.id == f"{split}/{family}/{index:06d}"
        assert item.pixels.shape == (CANVAS, CANVAS, 1) and item.pixels.dtype == np.uint16
        assert item.concepts.shape == (CANVAS, CANVAS) and item.concepts.dtype == np.uint8
        assert item.concepts.max() < len(CONCEPTS)
        assert item.pixels.flags["C_CONTIGUOUS"] and item.concepts.flags["C_CONTIGUOUS"]
        assert item.answer in item.options and len(item.options) == kind.choices
        assert set(item.options) <= set(kind.options) and item.answer == item.answer.lower()
        assert all(option in item.question for option in item.options)
        assert len(item.question.split("?")[0].split()) <= 12
        assert item.window[0] < item.window[1]
        assert (item.good_window is not None) == (item.needs == "window")
        for x1, y1, x2, y2 in item.targets:
            assert 0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000
        if item.needs in ("zoom", "window"):
            assert len(item.targets) == 1
        if item.needs in ("several", "measure"):
            assert len(item.targets) == 2
        if item.needs != "window":
            assert item.pixels.max() <= 255 and item.window == (0.0, 255.0)
        assert ("implanted" in item.question) == (family.startswith("implant") or family in ("same_shape", "lesion_ct"))


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_uniform_and_the_question_does_not_tell_them(family):
    atlas = Atlas("test")
    count = 900
    by_text, by_position, overall = (
        collections.defaultdict(collections.Counter),
        collections.Counter(),
        (collections.Counter()),
    )
    for index in range(count):
        item = atlas.item(family, index)
        stem = item.question if len(FAMILIES[family].options) == FAMILIES[family].choices else "shuffled options"
        by_text[stem][item.answer] += 1
        by_position[item.options.index(item.answer)] += 1
        overall[item.answer] += 1
    for counts, choices in [
        (by_position, FAMILIES[family].choices),
        (overall, len(FAMILIES[family].options)),
    ]:
        expected = count / choices
        deviation = 4.5 * np.sqrt(expected * (1 - 1 / choices))
        assert len(counts) == choices
        assert max(abs(value - expected) for value in counts.values()) < deviation, counts
    for text, counts in by_text.items():
        choices = FAMILIES[family].choices if len(FAMILIES[family].options) == FAMILIES[family].choices else len(counts)
        total = counts.total()
        assert counts.most_common(1)[0][1] < total / choices + 4.5 * np.sqrt(total / choices) + 1, (
            text,
            counts,
        )


def test_items_are_made_fast():
    """Thousands are made when an experiment starts. Usually 0.1 to 0.4 ms; the bound leaves room for a busy
    machine.
    """
    atlas = Atlas("train")
    for family in FAMILIES:
        spent = []
        for index in range(40):
            started = time.perf_counter()
            atlas.item(family, index)
            spent.append(time.perf_counter() - started)
        assert np.median(spent) < 5e-3, family


def test_plan_keeps_proportions_and_never_repeats():
    atlas = Atlas("train", ["plane", "implant_shape", "larger"])
    pairs = atlas.plan(100, {"plane": 1, "implant_shape": 3})
    shares = collections.Counter(name for name, _ in pairs)
    assert shares == {"plane": 25, "implant_shape": 75} and len(set(pairs)) == 100
    assert collections.Counter(name for name, _ in atlas.plan(9)) == dict.fromkeys(atlas.families, 3)
    assert not set(atlas.plan(9)) & set(atlas.plan(9, start=3))
    assert atlas.family_index("larger") == 2


def test_wrong_names_are_refused_with_the_right_ones():
    with pytest.raises(ValueError, match="train, validation, test"):
        Atlas("tset")
    with pytest.raises(ValueError, match="implant_shape"):
        Atlas("test", ["implants"])
    with pytest.raises(ValueError, match="outside"):
        Atlas("test").item("plane", -1)
    with pytest.raises(ValueError, match="not among plane"):
        Atlas("test", ["plane"]).item("side", 0)


def test_contact_sheet(tmp_path, capsys):
    main(["--sheet", str(tmp_path / "sheet.png"), "--rows", "1", "--split", "validation", "--timing", "1"])
    assert (tmp_path / "sheet.png").stat().st_size > 20_000
    assert "lesion_ct" in capsys.readouterr().out
