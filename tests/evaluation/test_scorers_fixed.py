"""The fixed scorer: faults mended, and held to the written list of differences."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvista_jax.evaluation.scorers import Item, score, summary
from medvista_jax.evaluation.scorers.conformance import SUBJECT
from medvista_jax.evaluation.scorers.differences import DIFFERENCES
from tests.scorers_compared import both

PUBLISHED = {
    case["id"]: case for case in SUBJECT.read_cases(Path(__file__).parents[1] / "data" / "scorers" / "published.json")
}
LISTED = [case for difference in DIFFERENCES for case in difference.cases]
OPTIONS = {"A": "CT", "B": "MRI", "C": "X-ray", "D": "left lung", "E": "lung"}


@pytest.mark.parametrize("case", PUBLISHED.values(), ids=lambda case: case["id"])
def test_differs_where_and_only_where_it_is_listed(case):
    results = both(case)
    differs = results is not None and results[0] != results[1]
    assert differs == (case["id"] in LISTED), results


def test_the_list_names_known_cases_once():
    assert len(set(LISTED)) == len(LISTED) and set(LISTED) <= PUBLISHED.keys()
    assert len({difference.id for difference in DIFFERENCES}) == len(DIFFERENCES)


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("Yes, there is a nodule", "yes"),
        ("unknown", None),
        ("normal", None),
        ("", None),
        ("There is no pneumothorax.", "no"),
        ("It is not present", "no"),
        ("It isn't visible.", "no"),
        ("I cannot determine this from the image", None),
        ("<think>yes or no?</think><answer>No</answer>", "no"),
        ("The answer is **Yes**", "yes"),
        ("是的，有结节", "yes"),
        ("不知道", None),
        ("It may be yes or no", None),
        ("I would say it is not true", "no"),
    ],
)
def test_yes_no(reply, parsed):
    found = score(reply, Item("no"))
    assert (found.parsed, found.correct, found.unparsable) == (parsed, parsed == "no", parsed is None)


@pytest.mark.parametrize(
    ("reply", "parsed"),
    [
        ("", None),
        ("I am not sure", None),
        ("A or B", None),
        ("b", "B"),
        ("(B)", "B"),
        ("B. MRI", "B"),
        ("<answer>\nB\n</answer>", "B"),
        ("\\boxed{C}", "C"),
        ("A patient was scanned with MRI", "B"),
        ("The left lung", "D"),
        ("lung", "E"),
        ("CT and MRI", None),
        ("Not CT but MRI", "B"),
        ("Z", None),
    ],
)
def test_options(reply, parsed):
    found = score(reply, Item("B", OPTIONS))
    assert (found.parsed, found.correct, found.unparsable) == (parsed, parsed == "B", parsed is None)
    assert found.f1 is found.recall is None


def test_open():
    empty = score("", Item("lung"))
    assert (empty.correct, empty.unparsable, empty.f1, empty.recall) == (False, True, 0.0, 0.0)
    found = score("The left lung.", Item("left lower lung"))
    assert not found.correct and found.f1 == pytest.approx(0.8) and found.recall == pytest.approx(2 / 3)
    assert score("Answer: 12,000", Item("12000")).correct
    assert not score("0.002", Item("0.001")).correct and not score("3.4", Item("3")).correct


def test_totals_count_every_question_once():
    items = [Item("yes"), Item("left", closed=True), Item("lung"), Item("heart")]
    scores = [score(reply, item) for reply, item in zip(("yes", "left", "lungs", ""), items, strict=True)]
    totals = summary(items, scores, verdicts={2: True, 3: False})
    assert [(totals[part].total, totals[part].right) for part in ("all", "open", "closed")] == [(4, 3), (2, 1), (2, 2)]
    assert totals["open"].accuracy == 0.5 and totals["all"].unparsable == 1 and totals["closed"].f1 is None
    assert summary([], [])["open"].accuracy is None
    with pytest.raises(ValueError, match="question 0"):
        summary(items, scores, {0: True})


def test_an_answer_that_is_no_option():
    with pytest.raises(ValueError, match="none of the options"):
        Item("PET", OPTIONS)
