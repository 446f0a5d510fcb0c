"""Rewards against literal cases and a plain n-gram counter."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import AnswerKey, Trajectory, Turns
from medvista_jax.learning.rewards import PRESETS, correctness, repeated_share, repetition, vista_r1, well_formed
from tests import tiny

R = 3
ROWS = 12  # batches are filled up to a multiple of this with rows that say nothing: one program serves most tests
share_of = jax.jit(repeated_share)
right_of = jax.jit(correctness)


@jax.jit
def judged(trajectory, key):
    return repeated_share(trajectory), repetition(trajectory), well_formed(trajectory), vista_r1(trajectory, key)


def keys(answer: str = "left") -> AnswerKey:
    return tiny.make_key([answer] * ROWS)


def trajectory(rows: list[dict], slots: int = 120) -> Trajectory:
    """Rows as ``{"turns": [ids, …], "formed": […], "answer": bytes, "truncated": bool}``, with gaps between turns."""
    rows = [*rows, *[{"turns": []}] * (-len(rows) % ROWS)]
    count = len(rows)
    tokens, turn = np.zeros((count, slots), np.int32), np.full((count, slots), -1, np.int32)
    formed, taken = np.zeros((count, R), bool), np.zeros(count, np.int32)
    answer, length = np.zeros((count, 64), np.uint8), np.zeros(count, np.int32)
    for b, row in enumerate(rows):
        at = 5
        for r, ids in enumerate(row["turns"]):
            tokens[b, at : at + len(ids)], turn[b, at : at + len(ids)] = ids, r
            at += len(ids) + 3
        taken[b] = len(row["turns"])
        formed[b, : taken[b]] = row.get("formed", [True] * taken[b])
        raw = row.get("answer", b"")
        answer[b, : len(raw)], length[b] = np.frombuffer(raw, np.uint8), len(raw)
    zero = np.zeros((count, R), np.int32)
    turns = Turns(zero, zero, zero, zero[..., None], formed, zero)
    unused = ("feature_BS", "positions_BSZ", "logprobs_BS", "allowed_BS", "features_BILE", "views", "valid_BS")
    nothing = dict.fromkeys(unused)
    return jax.tree.map(
        jnp.asarray,
        Trajectory(
            tokens_BS=tokens,
            sampled_BS=turn >= 0,
            turn_BS=turn,
            turns=turns,
            turns_B=taken,
            calls_B=taken,
            answer_BN=answer,
            answer_length_B=length,
            truncated_B=np.array([row.get("truncated", False) for row in rows]),
            **nothing,
        ),
    )


def counted(turns: list[list[int]]) -> float:
    """Share of 4-grams that occurred before in their turn, worst turn, at least 13 4-grams assumed."""
    worst = 0.0
    for ids in turns:
        seen: set[tuple[int, ...]] = set()
        repeats = 0
        grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
        for gram in grams:
            repeats += gram in seen
            seen.add(gram)
        worst = max(worst, repeats / max(len(grams), 13))
    return worst


def test_repeated_share_against_a_plain_counter():
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        alphabet = rng.choice(768, rng.integers(1, 9))
        rows.append({"turns": [rng.choice(alphabet, rng.integers(0, 36)).tolist() for _ in range(rng.integers(1, 4))]})
    got = np.asarray(share_of(trajectory(rows)))
    expected = [counted(row["turns"]) for row in rows]
    assert len({round(e, 3) for e in expected}) > 50
    np.testing.assert_allclose(got[: len(rows)], expected, atol=1e-6)


def test_the_same_words_in_two_turns_are_no_repetition():
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(ROWS):
        ids = rng.choice(768, 30, replace=False).tolist()
        rows.append({"turns": [ids, ids, ids]})
    assert not np.asarray(share_of(trajectory(rows))).any()


def loop(distinct: int, total: int) -> list[int]:
    """``total`` ids of which the 4-grams that repeat are ``total - 3 - distinct``."""
    return [100 + i % distinct for i in range(total)]


LEVELS = [
    (loop(30, 33), 0.0, 0.0),  # 30 4-grams, none twice
    (loop(22, 33), 8 / 30, 0.0),
    (loop(21, 33), 9 / 30, -1.5),
    (loop(17, 33), 13 / 30, -1.5),
    (loop(16, 33), 14 / 30, -2.0),
    (loop(13, 33), 17 / 30, -2.0),
    (loop(12, 33), 18 / 30, -3.0),
    (loop(1, 33), 29 / 30, -3.0),
    (loop(1, 6), 2 / 13, 0.0),  # a short turn counts as 16 tokens
    ([], 0.0, 0.0),
]


@pytest.fixture(scope="module")
def levels():
    t = trajectory([{"turns": [ids], "answer": b"left"} for ids, _, _ in LEVELS])
    share, penalty, _, terms = judged(t, keys())
    return share, penalty, terms


@pytest.mark.parametrize("row", range(len(LEVELS)))
def test_repetition_levels(levels, row):
    share, penalty, terms = levels
    _, expected_share, expected_penalty = LEVELS[row]
    assert float(share[row]) == pytest.approx(expected_share, abs=1e-6)
    assert float(penalty[row]) == expected_penalty
    assert float(terms.total_B[row]) == (2.0 if expected_penalty == 0 else expected_penalty)


def test_the_worst_turn_counts():
    good, bad = loop(30, 33), loop(1, 33)
    share = share_of(trajectory([{"turns": [good, bad, good]}, {"turns": [good, good]}]))
    np.testing.assert_allclose(np.asarray(share)[:2], [29 / 30, 0.0], atol=1e-6)


FINE = {"turns": [[1, 2, 3], [4, 5, 6]], "answer": b"left"}
GATES = {
    "right and well formed": (FINE, 2.0),
    "wrong": (FINE | {"answer": b"right"}, 1.0),
    "a turn that is not well formed": (FINE | {"formed": [True, False]}, -1.0),
    "ill formed and right pays the same as ill formed and wrong": (
        FINE | {"formed": [False, True], "answer": b"right"},
        -1.0,
    ),
    "truncated": (FINE | {"truncated": True, "answer": b""}, -1.0),
    "empty answer": (FINE | {"answer": b""}, 1.0),
    "repetition ends the sum": (FINE | {"turns": [loop(1, 33)]}, -3.0),
    "repetition before format": (FINE | {"turns": [loop(21, 33)], "formed": [False]}, -1.5),
    "case and space": (FINE | {"answer": b" LEFT.\n"}, 2.0),
    "more than the key": (FINE | {"answer": b"left right"}, 1.0),
    "less than the key": (FINE | {"answer": b"lef"}, 1.0),
}


@pytest.fixture(scope="module")
def gated():
    t = trajectory([row for row, _ in GATES.values()])
    _, _, formed, terms = judged(t, keys())
    return formed, terms


@pytest.mark.parametrize("name", GATES)
def test_gates(gated, name):
    _, terms = gated
    assert float(terms.total_B[list(GATES).index(name)]) == GATES[name][1]


def test_terms_stay_apart(gated):
    formed, terms = gated
    names = list(GATES)
    assert float(terms.correct_B[names.index("a turn that is not well formed")]) == 1.0
    assert float(terms.terms["format"][names.index("truncated")]) == -1.0
    assert float(terms.terms["repetition"][names.index("repetition before format")]) == -1.5
    assert not bool(formed[names.index("truncated")])


def test_turns_not_taken_do_not_count():
    t = trajectory([FINE | {"turns": [[1, 2]], "formed": [True]}])
    assert bool(judged(t, keys())[2][0])


def test_correctness_repeats_the_key_for_its_group():
    rows = [FINE | {"answer": answer} for answer in (b"left", b"A", b"7", b"7", b"a", b"B")]
    right = right_of(trajectory(rows), tiny.make_key(["left", "7", "A", "", "", ""]))
    assert np.asarray(right)[:6].tolist() == [1, 0, 1, 1, 1, 0]


def test_an_empty_key_is_never_right():
    assert float(right_of(trajectory([FINE | {"answer": b""}]), keys(""))[0]) == 0.0


def test_preset_is_registered():
    assert PRESETS["vista_r1"] is vista_r1
