"""Strict scorers against upstream's own results, and the command that checks them.

``published.json`` came with the specification; ``executed.json`` are random texts of ours given to upstream's code.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvista_jax.evaluation.scorers.__main__ import listing, main
from medvista_jax.evaluation.scorers.conformance import SUBJECT
from medvista_jax.evaluation.scorers.strict import STRICT

DATA = Path(__file__).parents[1] / "data" / "scorers"
CASES = [case for name in ("published", "executed") for case in SUBJECT.read_cases(DATA / f"{name}.json")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case):
    verdict = SUBJECT.run(case)
    assert verdict.agrees or verdict.skipped, str(verdict)
    assert bool(verdict.skipped) == bool(case["expected"].get("nondeterministic")), "only random results are skipped"


def test_every_scorer_has_cases_and_a_source():
    assert {case["scorer"] for case in CASES} == STRICT.keys()
    assert all("Source: " in scorer.__doc__ and "@" in scorer.__doc__ for scorer in STRICT.values())
    assert all(name in listing() for name in STRICT)


def test_the_command_on_the_published_cases(capsys):
    assert main(["--conformance", str(DATA / "published.json")]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("110 cases: 101 agree, 0 differ, 9 skipped\n")
    assert "lmms_eval.mmmu_parse_mc-006: skipped: upstream draws an option at random" in printed


def write(path, **changes):
    case = {"id": "one", "scorer": "medevalkit.mmmu_parse_mc", "expected": {"parsed": "A"}}
    case["input"] = {"prediction": "B", "options": {"A": "CT", "B": "MRI"}}
    path.write_text(json.dumps({"cases": [case | changes]}))
    return ["--conformance", str(path)]


def test_a_difference_is_shown(tmp_path, capsys):
    assert main(write(tmp_path / "f.json")) == 1
    assert "one: DIFFER: expected {parsed: 'A'}, found {parsed: 'B'}" in capsys.readouterr().out
    # A definite result where upstream would draw is no reason to skip.
    assert main(write(tmp_path / "f.json", expected={"nondeterministic": True})) == 1


@pytest.mark.parametrize("changes", [{"scorer": "x"}, {"input": 3}, {"input": {"prediction": "B"}}])
def test_what_cannot_be_read(tmp_path, capsys, changes):
    assert main(write(tmp_path / "f.json", **changes)) == 2
    assert "medvista_jax.evaluation.scorers: " in capsys.readouterr().err


def test_a_missing_file(tmp_path, capsys):
    assert main(["--conformance", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_upstream_faults_that_no_published_case_shows():
    rad, choice = STRICT["medevalkit.vqa_rad_pathvqa"], STRICT["medevalkit.multi_choice"]
    assert rad({"prediction": "Yes, there is a nodule", "gold": "yes"})["correct"] is False
    assert rad({"prediction": "unknown", "gold": "no"})["correct"] is True
    assert choice({"prediction": "", "gold": "CT", "choices": ["CT", "MRI"]})["correct"] is True
