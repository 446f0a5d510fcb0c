"""The device's presets against literal rewards of hand-made trajectories, under ``jit``."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import AnswerKey, Fault, Kind, Trajectory, Turns, View, Views
from medvista_jax.learning.rewards import (
    PRESETS,
    RECIPES,
    adjacent_repeats,
    faulty_calls,
    overlong,
    plus,
    sampled_tokens,
    tool_images,
    valid_calls,
)
from medvista_jax.learning.rewards.crops import crop_masks, places
from medvista_jax.learning.rewards.numbers import number_of
from tests import tiny

R, IMAGES, SLOTS, SIDE = 4, 5, 64, 80  # the original is 80 × 80 pixels
A, NEAR, B = (0, 0, 40, 40), (2, 2, 42, 42), (40, 40, 80, 80)
OK, BAD = Fault.NONE, Fault.EMPTY_BOX


def trajectory(rows: list[dict]) -> Trajectory:
    """Rows as ``{"calls": [(box, fault), …], "formed": […], "answer": bytes or None}``: one turn for each call, then
    the answer's; a call without a fault returns a crop that is shown before the next turn.
    """
    count = len(rows)
    kind, fault = np.zeros((count, R), np.int32), np.zeros((count, R), np.int32)
    formed, taken = np.zeros((count, R), bool), np.zeros(count, np.int32)
    turn, feature = np.full((count, SLOTS), -1, np.int32), np.full((count, SLOTS), -1, np.int32)
    affine = np.tile(np.array([[SIDE, 0, 0], [0, SIDE, 0]], np.float32), (count, IMAGES, 2, 1, 1))
    images, answer, length = np.ones(count, np.int32), np.zeros((count, 16), np.uint8), np.zeros(count, np.int32)
    feature[:, 1:3] = [0, 1]  # the original, two embeddings an image, before any turn
    for b, row in enumerate(rows):
        calls, said = row.get("calls", []), row.get("answer", b"")
        taken[b] = len(calls) + (said is not None)
        formed[b, : taken[b]] = row.get("formed", [True] * taken[b])
        for r, (box, wrong) in enumerate(calls):
            kind[b, r], fault[b, r] = Kind.CALL, wrong
            turn[b, 5 + 10 * r : 9 + 10 * r] = r
            if wrong == OK:
                x1, y1, x2, y2 = box
                affine[b, images[b], :] = [[x2 - x1, 0, x1], [0, y2 - y1, y1]]
                if r + 1 < R:  # nobody reads what comes after the last turn
                    feature[b, 11 + 10 * r : 13 + 10 * r] = 2 * images[b] + np.arange(2)
                images[b] += 1
        if said is not None:
            r = len(calls)
            kind[b, r], turn[b, 5 + 10 * r : 9 + 10 * r] = Kind.ANSWER, r
            answer[b, : len(said)], length[b] = np.frombuffer(said, np.uint8), len(said)
    each = lambda *shape: np.zeros((count, IMAGES, *shape), np.int32)  # noqa: E731
    view = View(each(2), affine, each(2), each(), each(3), each(1), each(1, 1))
    zero = np.zeros((count, R), np.int32)
    unused = ("positions_BSZ", "logprobs_BS", "allowed_BS", "features_BILE", "valid_BS")
    return jax.tree.map(
        jnp.asarray,
        Trajectory(
            tokens_BS=np.arange(count * SLOTS, dtype=np.int32).reshape(count, SLOTS),
            sampled_BS=turn >= 0,
            feature_BS=feature,
            turn_BS=turn,
            views=Views(view, images),
            turns=Turns(kind, fault, np.where(kind == Kind.CALL, 0, -1), zero[..., None], formed, zero),
            turns_B=taken,
            calls_B=(kind == Kind.CALL).sum(axis=1),
            answer_BN=answer,
            answer_length_B=length,
            truncated_B=np.array([row.get("answer", b"") is None for row in rows]),
            **dict.fromkeys(unused),
        ),
    )


def looked(answer: bytes | None, *boxes: tuple[int, ...], **more) -> dict:
    return {"calls": [(box, OK) for box in boxes], "answer": answer, **more}


ROWS = [
    # a group of which one looks
    looked(b"cat", A),
    looked(b"cat"),
    looked(b"dog"),
    looked(b"dog"),
    # a group that looks too often
    looked(b"cat", A, NEAR, B),
    looked(b"dog", A, NEAR),
    looked(b"cat", A),
    looked(b"dog"),
    # a group that does not look at the same place
    looked(b"cat", A),
    looked(b"cat", A),
    looked(b"cat", B),
    looked(b"dog", B),
    # out of turns after two errors; right with an ill-formed turn, with a tool and without; an answer too long to keep
    {"calls": [(A, OK), (A, BAD), (A, BAD), (B, OK)], "answer": None},
    looked(b"cat", A, formed=[True, False]),
    looked(b"cat", formed=[False]),
    looked(b""),
]
NOBODY = np.zeros(len(ROWS), np.float32)
OUTSIDE = {
    "grit": {"bleu1": NOBODY},
    "visualtoolagent": {"correct_without_tools": np.tile(np.array([1, 0], np.float32), 8)},
    "visionary_r1": {"caption": np.full(len(ROWS), 0.5, np.float32)},
}
RIGHT = [1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 0]
EXPECTED = {
    # one row each: the four groups above
    "deepeyes": [2, 0.8, 0, 0, 2, 0, 2, 0, 2, 2, 2, 0, 0, 1.8, 0.6, -0.2],
    "deepeyes_additive_tool": [1.2, 0.8, 0, 0, 1.2, 0.4, 1.2, 0, 1.2, 1.2, 1.2, 0.4, 0.4, 1.0, 0.6, -0.2],
    "deepeyes_multiplicative": [1.2, 0, 0, 0, 1.2, 0, 1.2, 0, 1.2, 1.2, 1.2, 0, 0, 1.0, -0.2, -0.2],
    "deepeyes_math": [1.2, 1.2, 0, 0, 1.2, 0, 1.2, 0, 1.2, 1.2, 1.2, 0, -0.4, 0.8, 0.8, -0.4],
    "deepeyes_v2": [1, 1, 0.2, 0.2, 1, 0.2, 1, 0.2, 1, 1, 1, 0.2, 0, 0.8, 0.8, 0],
    "deepeyes_v2_search": [0.92, 1, 0.2, 0.2, 0.92, 0.2, 0.92, 0.2, 0.92, 0.92, 0.92, 0.2, 0, 0.72, 0.8, 0],
    "pixel_reasoner": [1.025, 1, 0, 0, 0.9, -0.05, 1, 0, 1, 1, 1, 0, -0.05, 1, 1, 0],
    "pixel_reasoner_release": [1.025, 1, 0, 0, 0.9, -0.05, 1, 0, 1, 1, 1, 0, -0.05, 1, 1, 0],
    "mini_o3": RIGHT,
    "vtool_r1": RIGHT,
    "vtool_r1_string": RIGHT,
    "openthinkimg": RIGHT,
    "chain_of_focus": [1, 1, 0.1, 0.1, 1, 0.1, 1, 0.1, 1, 1, 1, 0.1, 0, 0.9, 0.9, 0.1],
    "vigorl_multiturn": [1, 1, 0.4, 0.4, 1.08, 0.4, 1, 0.4, 1, 1, 1, 0.4, 0, 0.6, 0.6, 0],
    "grit": [3, 2.5, 1.5, 1.5, 3, 2, 3, 1.5, 3, 3, 3, 2, 1.5, 2.75, 2, 1],
    "visualtoolagent": [1, 1, -0.5, 0, 1, 0, 1, 0, 1, 1, 1, 0, -0.5, 1, 1, 0],
    "visionary_r1": [2.05, 2.05, 1.05, 1.05, 2.05, 1.05, 2.05, 1.05, *[2.05] * 3, 1.05, 0.05, 1.05, 1.05, 1.05],
    "med_r1": [2, 2, 1, 1, 2, 1, 2, 1, 2, 2, 2, 1, 0, 1, 1, 1],
    "medvlthinker": [1, 1, 0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0],
    "ophiuchus": [4, 2, 1, 1, 4, 1, 4, 1, 4, 4, 4, 1, 0, 3, 1, 1],
    "verl_zoom_tool": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -0.1, 0, 0, 0],
    # the third group: two of three right ones agree, so the odd one gets half and the wrong one nothing
    "medvr": [1.5, 1, 0, 0, 1.5, 0, 2, 0, 2, 2, 1.5, 0, 0, 1.5, 1, 0],
}
VARIANTS = {
    "mini_o3 with the code's defaults": (
        functools.partial(PRESETS["mini_o3"], penalty=0.1, format_weight=1.0),
        [1.9, 2, 1, 1, 1.9, 1, 1.9, 1, 1.9, 1.9, 1.9, 1, 0, 0.9, 1, 1],
    ),
    "mini_o3 pays for a tool, right or wrong": (
        functools.partial(PRESETS["mini_o3"], tool_weight=0.5),
        [1.5, 1, 0, 0, 1.5, 0.5, 1.5, 0, 1.5, 1.5, 1.5, 0.5, 0, 1.5, 1, 0],
    ),
    "openthinkimg with its format": (
        functools.partial(PRESETS["openthinkimg"], format_weight=1.0),
        [2, 2, 1, 1, 2, 1, 2, 1, 2, 2, 2, 1, 1, 1.5, 1, 1],
    ),
    "deepeyes_v2_search of another tool": (
        functools.partial(PRESETS["deepeyes_v2_search"], search_tools=(3,)),
        EXPECTED["deepeyes_v2"],
    ),
    "medvr read literally": (
        functools.partial(PRESETS["medvr"], pays_without_crop=True, format_penalty=0.25),
        [1.5, 1.5, 0, 0, 1.5, 0, 2, 0, 2, 2, 1.5, 0, -0.25, 1.25, 1.25, 0],
    ),
    "ophiuchus segments": (
        functools.partial(PRESETS["ophiuchus"], outside={"iou": jnp.array([0.6875, 0.5, 0.71, 0.8] * 4)}),
        [4, 1, 3, 3, 4, 1, 5, 3, 4, 1, 5, 5, 3, 0, 2, 3],
    ),
    "grit counts": (
        functools.partial(PRESETS["grit"], outside={"bleu1": NOBODY + 0.5, "count_matches": NOBODY + 1}),
        [x + 1.05 for x in EXPECTED["grit"]],
    ),
    "and a term more": (plus(PRESETS["med_r1"], "overlong", functools.partial(overlong, limit=8, cache=4), 0.5), None),
}


def keys(answers: list[str]) -> AnswerKey:
    return tiny.make_key(answers)


@pytest.fixture(scope="module")
def paid():
    """All of it in one program."""

    def everything(t, key):
        plain = {name: PRESETS[name](t, key, **_outside(name)) for name in EXPECTED}
        return plain, {name: reward(t, key) for name, (reward, _) in VARIANTS.items()}

    return jax.jit(everything)(trajectory(ROWS), keys(["cat"] * 4))


def _outside(name: str) -> dict:
    return {"outside": OUTSIDE[name]} if name in OUTSIDE else {}


@pytest.mark.parametrize("name", EXPECTED)
def test_preset(paid, name):
    terms = paid[0][name]
    assert terms.total_B.dtype == terms.correct_B.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(terms.total_B), EXPECTED[name], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(terms.correct_B), RIGHT)


def test_every_published_preset_has_literal_rewards():
    ours = {name for name, reward in PRESETS.items() if getattr(reward, "__module__", "").startswith("medvista_jax.")}
    assert len(EXPECTED) == 22 and ours == EXPECTED.keys() | {"vista_r1"}


@pytest.mark.parametrize("name", [name for name, (_, expected) in VARIANTS.items() if expected is not None])
def test_settings(paid, name):
    np.testing.assert_allclose(np.asarray(paid[1][name].total_B), VARIANTS[name][1], atol=1e-6)


def test_a_term_can_be_added(paid):
    terms = paid[1]["and a term more"]
    extra = np.asarray(terms.terms["overlong"])
    assert extra[1] == 0 and extra[0] == -0.5 and extra[4] == -0.5  # 4, 8 and 16 tokens
    np.testing.assert_allclose(np.asarray(terms.total_B), np.array(EXPECTED["med_r1"]) + extra, atol=1e-6)


def test_rows_out_of_turns_carry_no_loss(paid):
    include = np.asarray(paid[0]["mini_o3"].include_B)
    assert include.tolist() == [True] * 12 + [False] + [True] * 3
    assert paid[0]["deepeyes"].include_B is None


def test_literal_groups_of_eight():
    """Pixel Reasoner's vectors: one of eight calls, and nobody is right but one calls twice."""
    right, calls = [1, 1, 0, 0, 1, 0, 1, 0], [1] + [0] * 7
    first = [looked(b"cat" if good else b"dog", *[A] * n) for good, n in zip(right, calls, strict=True)]
    second = [looked(b"dog", A, B)] + [looked(b"dog")] * 7
    both = jax.jit(lambda t, k: [PRESETS[n](t, k).total_B for n in ("pixel_reasoner", "pixel_reasoner_release")])
    paper, release = both(trajectory(first + second), keys(["cat", "cat"]))
    np.testing.assert_allclose(np.asarray(release)[:8], [1.175, 1, 0, 0, 1, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(np.asarray(paper)[8:], [0.0375] + [0] * 7, atol=1e-6)


def test_a_right_answer_after_a_failed_call_is_not_paid_by_the_release():
    rows = [{"calls": [(A, OK), (A, BAD)], "answer": b"cat"}, {"calls": [(A, BAD), (A, OK)], "answer": b"cat"}]
    terms = jax.jit(PRESETS["pixel_reasoner_release"])(trajectory(rows), keys(["cat"]))
    assert np.asarray(terms.correct_B).tolist() == [0, 1]


def test_nobody_zooms():
    t = trajectory([looked(b"cat"), looked(b"cat")])
    both = jax.jit(lambda t, k: (PRESETS["medvr"](t, k), PRESETS["medvr"](t, k, pays_without_crop=True)))
    ours, literal = both(t, keys(["cat"]))
    assert np.asarray(ours.total_B).tolist() == [1, 1]
    assert np.asarray(literal.total_B).tolist() == [1.5, 1.5]


def test_accuracy_from_elsewhere_takes_the_place_of_the_key():
    t, key = trajectory(ROWS), keys(["cat"] * 4)
    judged = np.array(RIGHT[::-1], np.float32)
    terms = jax.jit(PRESETS["deepeyes"])(t, key, judged)
    # row 15's answer was lost, so that no judge can make it right; row 12 has none, but its text is judged
    np.testing.assert_array_equal(np.asarray(terms.correct_B), [*judged[:15], 0])
    assert float(terms.total_B[2]) == pytest.approx(0.8)  # the text is wrong, the judge says right
    with pytest.raises(ValueError, match=r"accuracy_B must be \[16\]"):
        PRESETS["deepeyes"](t, key, judged[:4])


@pytest.mark.parametrize(
    ("name", "missing"),
    [("grit", "bleu1"), ("visualtoolagent", "correct_without_tools"), ("visionary_r1", "caption")],
)
def test_what_the_device_cannot_know_is_named(name, missing):
    with pytest.raises(ValueError, match=f"reward '{name}' needs outside=.*{missing}"):
        jax.eval_shape(PRESETS[name], trajectory(ROWS), keys(["cat"] * 4))


def test_numbers_are_right_by_degrees():
    cases = [("9", "10", 0.9), ("3.5", "3.50", 1), ("0", "5", 0), ("-5", "5", -1), ("9 mm", "10", 0), ("ten", "ten", 1)]
    t = trajectory([looked(said.encode()) for said, _, _ in cases])
    terms = jax.jit(PRESETS["vtool_r1_string"])(t, keys([gold for _, gold, _ in cases]))
    np.testing.assert_allclose(np.asarray(terms.total_B), [expected for *_, expected in cases], atol=1e-6)


def test_numbers_on_the_device():
    texts = ["12", "-3.50", " 7 ", "0.125", "1.2.3", "a1", "", "-", "1 2", "12345.678", "5.", "-0"]
    raw = np.zeros((len(texts), 16), np.uint8)
    for row, text in zip(raw, texts, strict=True):
        row[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    value, is_number = jax.jit(number_of)(jnp.asarray(raw), jnp.array([len(text) for text in texts]))
    wanted = [12, -3.5, 7, 0.125, None, None, None, None, None, 12345.678, 5, 0]
    assert np.asarray(is_number).tolist() == [number is not None for number in wanted]
    for got, number in zip(np.asarray(value), wanted, strict=True):
        assert number is None or got == pytest.approx(number, rel=1e-6)


def test_signals_of_a_real_rollout():
    """Zooms, a window, and a fault, counted by hand from the script."""
    script = [
        (tiny.ZOOM, tiny.ZOOM_AGAIN, "<think>x</think><answer>left</answer>"),
        (tiny.WINDOW, "<think>x</think><answer>left</answer>"),
        (tiny.ZOOM.replace("600", "100"), "<think>x</think><answer>7</answer>"),
        ("<think>x</think><answer>7</answer>",),
        (tiny.ZOOM, tiny.ZOOM, tiny.ZOOM),
        ("nothing", tiny.ZOOM, "<think>x</think><answer>A</answer>"),
    ]
    ids = [[tiny.TOKENIZER.encode(turn) for turn in row] for row in script]
    t = tiny.played(tiny.make_script(ids))
    signals = (tool_images, valid_calls, faulty_calls, sampled_tokens, lambda t: places(t, 0.5))
    all_of = jax.jit(lambda t: (*(signal(t) for signal in signals), crop_masks(t, 100)))
    images, valid, faulty, tokens, where, masks = all_of(t)
    assert np.asarray(images).tolist() == [2, 1, 0, 0, 2, 1]
    assert np.asarray(valid).tolist() == [2, 1, 0, 0, 2, 1]
    assert np.asarray(faulty).tolist() == [0, 0, 1, 0, 1, 0]  # an empty box; no image left for a third view
    assert np.asarray(tokens).tolist() == [sum(map(len, row)) for row in ids]
    # canvas 24 × 30: the second zoom of row 0 lies in the first; a window is no crop
    assert np.asarray(where).tolist() == [2, 0, 0, 0, 1, 1]
    share = np.asarray(masks).mean(axis=(1, 2))
    np.testing.assert_allclose(share, [0.5 * 0.7, 0, 0, 0, 0.35, 0.35], atol=1e-6)


def test_overlong_counts_tokens():
    lengths = [0, 10, 11, 15, 20, 25]
    sampled = jnp.arange(30)[None, :] < jnp.array(lengths)[:, None]
    t = trajectory([looked(b"cat")] * 6).replace(sampled_BS=sampled)
    got = np.asarray(jax.jit(functools.partial(overlong, limit=20, cache=10))(t))
    np.testing.assert_allclose(got, [0, 0, -0.1, -0.5, -1, -1], atol=1e-6)  # arXiv 2503.14476, eq. 13 by hand


def test_adjacent_repeats_against_a_plain_counter():
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 2, (6, 60))
    tokens[0], tokens[1] = 7, np.arange(60) % 8
    turn = np.where(np.arange(60) < 35, 0, 1) * np.ones((6, 1), int)
    turn[:, 33:37] = -1
    t = trajectory([looked(b"cat")] * 6).replace(tokens_BS=jnp.asarray(tokens), turn_BS=jnp.asarray(turn))
    expected = []
    for row, mine in zip(tokens, turn, strict=True):
        parts = [row[mine == k].tolist() for k in (0, 1)]
        pairs = [(p[i : i + 3], p[i + 3 : i + 6]) for p in parts for i in range(len(p) - 5)]
        expected.append(np.mean([one == other for one, other in pairs]))
    np.testing.assert_allclose(np.asarray(jax.jit(adjacent_repeats, static_argnums=1)(t, 3)), expected, atol=1e-6)
    assert 0 < expected[2] < 1 and expected[0] == 1


def test_recipes_belong_to_presets():
    assert RECIPES.keys() <= PRESETS.keys()
    deepeyes = RECIPES["deepeyes"]
    assert (deepeyes.group, deepeyes.prompts, deepeyes.learning_rate, deepeyes.kl) == (16, 256, 1e-6, 0.0)
    assert RECIPES["mini_o3"].clip == (0.2, 0.3) and RECIPES["pixel_reasoner"].advantage == "grpo_mean"
