"""Filters say why, the first reason counts; pass rates; the curriculum is seeded, resumable and follows its weights."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medvista_jax.data.trajectories import Outcome, Record, Source, Turn
from medvista_jax.data.trajectories.curriculum import (
    Curriculum,
    draw_rows,
    rates_of,
    read_pass_rates,
    weights,
    write_pass_rates,
)
from medvista_jax.data.trajectories.select import Filter, PassRate, fates_table, judge, pass_rates, repeated_share


def make(name: str = "q", text: str = "<think>a</think><answer>x</answer>", **outcome) -> Record:
    end = {"answer": "x", "correct": True, "well_formed": True} | outcome
    return Record(name, "Which?", (), Source("teacher"), "x", family="f", turns=(Turn(text),), outcome=Outcome(**end))


def reasons(records, **config) -> list[str]:
    return [reason for _, reason in judge(records, Filter(**config), pass_rates(records))]


def test_each_reason():
    loop = "<think>" + "look at it " * 12 + "</think><answer>x</answer>"
    refused = dataclasses.replace(
        make("r"), turns=(Turn("<think>b</think><tool_call>{</tool_call>", fault="MALFORMED"),)
    )
    records = [
        make(),
        make(correct=False),
        make("open", correct=None),
        make("form", well_formed=False),
        refused,
        make("loop", loop),
        make(text="<think>A</think>\n<answer>x</answer>"),
        make("other"),
    ]
    expected = ["", "wrong answer", "wrong answer", "not well formed", "", "repetition", "duplicate", ""]
    assert reasons(records) == expected
    assert reasons(records, no_faults=True)[4] == "refused call"
    assert reasons(records, duplicates=False)[6] == ""
    assert reasons(records, correct=False, well_formed=False, repetition=1.0)[1:4] == ["duplicate", "", ""]
    assert reasons([make(text=f"<think>{n}</think><answer>x</answer>") for n in range(3)], per_question=2) == [
        "",
        "",
        "enough of the question",
    ]


def test_the_window_of_difficulty():
    hard = [make("hard", correct=n == 0, text=f"{n}") for n in range(4)]
    easy = [make("easy", text=f"{n}") for n in range(4)]
    rates = pass_rates([*hard, *easy, make("open", correct=None)])
    assert rates == {"hard": PassRate(1, 4, "f"), "easy": PassRate(4, 4, "f")}
    assert (
        reasons([*hard, *easy], hardest=0.5)[0] == "too hard"
        and reasons([*hard, *easy], easiest=0.8)[4:] == ["too easy"] * 4
    )


def test_repeated_share_is_of_ids_where_there_are_some():
    words = Turn("a b c d " * 8)  # 32 words, 29 4-grams, 4 of them different
    assert repeated_share(words) == pytest.approx(25 / 32)
    assert repeated_share(dataclasses.replace(words, ids=tuple(range(32)))) == 0.0
    assert repeated_share(Turn("a a a a a")) == pytest.approx(1 / 16)  # short turns count as 16
    assert repeated_share(Turn("")) == 0.0


def test_the_table():
    table = fates_table({"side": {"": 3, "wrong answer": 2}, "plane": {"": 1, "duplicate": 4}})
    assert table.splitlines() == [
        "| family | sampled | kept | wrong answer | duplicate |",
        "|---|---:|---:|---:|---:|",
        "| plane | 5 | 1 | 0 | 4 |",
        "| side | 5 | 3 | 2 | 0 |",
        "| all | 10 | 4 | 2 | 4 |",
    ]


RATES = np.array([0.0, 0.1, 0.2, 0.5, 0.8, 0.9, 1.0, np.nan])


def test_weights():
    window = weights(Curriculum("window"), RATES, 0.3)
    assert window.tolist() == [0.05, 0.05, 1, 1, 1, 0.05, 0.05, 1]
    assert weights(Curriculum("uniform"), RATES, 0.3).tolist() == [1.0] * 8
    first, last = (weights(Curriculum("easy_to_hard"), RATES, progress) for progress in (0.0, 1.0))
    assert first.argmax() == 4 and last.argmax() == 2  # high, then low
    assert first[3] == pytest.approx(0.05 + 0.95 * np.exp(-0.5 * (0.3 / 0.2) ** 2))
    assert weights(Curriculum("easy_to_hard"), RATES, 0.5).argmax() == 3
    assert min(first.min(), last.min()) >= 0.05


@pytest.mark.parametrize("change", [{"low": 0.9}, {"high": 1.2}, {"floor": 0.0}, {"width": 0.0}])
def test_settings_that_make_no_sense(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Curriculum(**change)


def test_draws_are_a_function_of_seed_and_step():
    config = Curriculum("easy_to_hard")
    rates = np.linspace(0, 1, 200)
    draw = lambda step, seed=3: draw_rows(config, rates, seed, step, 100, 16)  # noqa: E731
    whole = [draw(step).tolist() for step in range(100)]
    assert [draw(step).tolist() for step in range(40, 100)] == whole[40:]  # a resumed run
    assert draw(5).tolist() != draw(6).tolist() and draw(5).tolist() != draw(5, seed=4).tolist()
    assert draw(5, seed=(3, 1)).tolist() != draw(5).tolist()
    assert all(len(set(rows)) == 16 for rows in whole)  # no question twice in a step
    pass_rate = [rates[rows].mean() for rows in whole]
    assert np.mean(pass_rate[:20]) > 0.65 and np.mean(pass_rate[-20:]) < 0.35


def test_the_first_drawn_follows_the_weights():
    """20,000 draws of one of three: four standard errors of a share are 0.014."""
    config = Curriculum("window", floor=0.25)
    rates = np.array([0.5, 0.0, 0.5])
    first = np.array([draw_rows(config, rates, 0, step, 20_000, 1)[0] for step in range(20_000)])
    np.testing.assert_allclose(np.bincount(first) / len(first), np.array([4, 1, 4]) / 9, atol=0.014)
    assert len(draw_rows(config, rates, 0, 0, 10, 7)) == 7  # more than there are: some come twice


def test_pass_rates_in_a_file(tmp_path):
    rates = {"a": PassRate(1, 4, "f"), "b": PassRate(0, 2)}
    write_pass_rates(tmp_path / "rates.jsonl", rates)
    assert read_pass_rates(tmp_path / "rates.jsonl") == rates
    np.testing.assert_array_equal(rates_of(["b", "?", "a"], rates), [0.0, np.nan, 0.25])
    (tmp_path / "rates.jsonl").write_text(
        '{"id": "a", "passed": 1, "sampled": 1}\n{"id": "b", "passed": 3, "sampled": 2}\n'
    )
    with pytest.raises(ValueError, match="rates.jsonl, line 2: an object with id, passed and sampled is wanted"):
        read_pass_rates(tmp_path / "rates.jsonl")
