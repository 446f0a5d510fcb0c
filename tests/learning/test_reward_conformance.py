"""Published rewards over text against upstream's own numbers, and the command that checks them.

``published.json`` came with the specification; ``executed.json`` are random texts of ours that were given to upstream's
code, with a stub for its judge.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medvista_jax.core.conformance import Skipped
from medvista_jax.learning.rewards import PRESETS
from medvista_jax.learning.rewards.__main__ import listing, main
from medvista_jax.learning.rewards.conformance import SUBJECT
from medvista_jax.learning.rewards.transcripts import READERS, mathematics
from medvista_jax.learning.rewards.transcripts.base import unabridged

DATA = Path(__file__).parents[1] / "data" / "rewards"
CASES = [case for name in ("published", "executed") for case in SUBJECT.read_cases(DATA / f"{name}.json")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case):
    verdict = SUBJECT.run(case)
    assert verdict.agrees, str(verdict)


def test_every_published_preset_reads_text():
    assert READERS.keys() - {"grit_rule_parts", "ophiuchus_seg"} <= PRESETS.keys()
    assert len(READERS) == 24 and len(CASES) > 140


LOOK = "<think>t</think><tool_call>{}</tool_call><|vision_start|><|image_pad|><|vision_end|><think>b</think>"
BY_HAND = [
    # DeepEyes counts no tags as no error, and looks for answers behind the last thought only.
    ("deepeyes", {"response": "cat", "judge": 1}, 0.8),
    ("deepeyes", {"response": "<answer>a</think><answer>cat</answer>", "judge": 1}, 0.6),
    ("deepeyes", {"response": "<think><answer></think><answer>cat</answer>", "judge": 1}, 0.8),
    ("deepeyes", {"response": "<answer>xxxx...(answer is 999 x 'x')...</answer>", "judge": 1}, 0.8),
    ("deepeyes", {"response": LOOK + "<|vision_start|><|image_pad|><answer>cat</answer>", "judge": 1}, 1.8),
    ("deepeyes_additive_tool", {"response": LOOK + "<answer>dog</answer>", "judge": 0}, 0.4),
    ("deepeyes_multiplicative", {"response": "<answer>cat</answer>", "judge": 1}, 0.0),
    ("deepeyes_multiplicative", {"response": LOOK + "<answer>cat</answer>", "judge": 1}, 1.2),
    ("deepeyes_math", {"response": "<think>a</think>\\boxed{5}", "gold": "5.0", "judge": 0}, 1.2),
    ("deepeyes_math", {"response": "<think>a</think>\\boxed{4}\\boxed{5}", "gold": "5", "judge": 0}, 0.8),
    ("deepeyes_v2_search", {"response": "<think>a</think><tool_call><answer>cat</answer>", "judge": 1}, 0.72),
    ("vtool_r1", {"prediction": "FINAL ANSWER: cat.", "judge": 1}, 1.0),
    ("vtool_r1", {"prediction": "cat", "judge": 1}, 0.0),
    ("visualtoolagent", {"frozen_model_correct_without_tools": 0, "frozen_model_correct_with_tools": 1}, 1.0),
    ("visionary_r1", {"response": "<info>i</info> <think>t</think><answer>5%</answer>", "gold": "<answer>0.05</answer>",
                      "caption": 1.0}, 2.1),
    ("pixel_reasoner", {"group_accuracy": [0, 1], "group_valid_tool_calls": [0, 0]}, [0.0, 1.0]),
    ("pixel_reasoner_release", {"group_accuracy": [1, 1], "group_valid_tool_calls": [0, 0]}, [1.0, 1.0]),
    ("pixel_reasoner_release", {"group_accuracy": [1, 1], "group_valid_tool_calls": [1, 0],
                                "group_final_error": [1, 0]}, [0.0, 1.0]),
    ("mini_o3", {"turns": ["<think>z</think><answer>cat</answer>"], "judge": 1, "exceeded": True}, 0.0),
    # the zoom hands on the true mask: the leak of the environment as released
    ("ophiuchus_seg", {"gold": "A", "actions": [
        '<think>x</think> Action: Zoom-in\n```json\n[{"index":1,"bbox_2d":[0,0,9,9]}]\n```',
        "<think>y</think><answer>A</answer>"]}, 6.0),
    ("ophiuchus_seg", {"iou": 0.81}, 3.0),
    ("verl_zoom_tool", {"bbox_2d": [0, 0, 40, 40], "image": [100, 100]}, 0.0),
    ("verl_zoom_tool", {"bbox_2d": [0, 0, 2, 2], "image": [100, 100]}, 0.0),  # grown to 28 pixels
    ("verl_zoom_tool", {"bbox_2d": [40, 0, 40, 40], "image": [100, 100]}, -0.05),
    ("verl_zoom_tool", {"bbox_2d": [0, 0, 2, 2], "image": [20, 100]}, -0.05),
    ("verl_zoom_tool", {"calls": [{"bbox_2d": [1, 2, 3]}, {"bbox_2d": [0, 0, 300, 2]}], "image": [400, 100]}, -0.1),
    ("grit", {"response": "<think> a b </think><rethink> c </rethink><answer>a cat", "gold": "a cat", "judge": 1},
     1 + 0.1 + 0.5 + 0.5 + 0 + 0.5),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BY_HAND)))
def test_by_hand(number):
    preset, given, expected = BY_HAND[number]
    verdict = SUBJECT.run({"id": "x", "preset": preset, "input": given, "expected": expected})
    assert verdict.agrees, str(verdict)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [  # what math-verify 0.9.0 says
        ("<answer>5</answer>", "<answer>5</answer>", False),
        ("<answer> 5 </answer>", "5.0", True),
        ("<think>it is 5 mm</think><answer>B</answer>", "5", True),
        ("<think>1 and 2</think><answer>T2</answer>", "2", True),
        ("<answer>B</answer>", "B", False),
        ("1/2", "0.5", True),
        ("0.333333", "1/3", True),
        ("9%", "9", True),
        ("9%", "0.09", True),
        ("9.5%", "9.5", True),
        ("1,000", "1000", True),
        ("answer is 4. <think>6</think>", "4", True),
        ("2+3", "5", True),
        ("2+3", "5 percent", False),
        ("x = 3 so 4", "4", True),
        ("\\boxed{5}", "5", True),
        ("\\boxed{B}", "\\boxed{b}", True),
        ("-3", "3", False),
        ("12,5", "12.5", True),
        ("$100", "100", True),
        ("<answer>is 7</answer> 8", "8", True),
        ("1/0", "1/0", True),
        ("3 cm", "3", True),
        ("XDY2K", "2", False),
        ("1,000,5", "1000", True),
        ("answer 1/0 and then 5", "5", False),
    ],
)
def test_numbers_are_equal_as_math_verify_finds_them(one, other, equal):
    assert mathematics._equal(mathematics._read(one), mathematics._read(other)) is equal


def test_latex_needs_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    case = {"preset": "med_r1", "input": {"response": "$x^2$", "gold": "$x \\cdot x$"}, "expected": 1.0}
    verdict = SUBJECT.run({"id": "latex", **case})
    assert str(verdict).startswith("latex: skipped: needs the package math-verify")
    with pytest.raises(Skipped):
        mathematics.same("$x$", "1")


def test_abridged_runs_are_written_out():
    assert unabridged("<answer>xxxxxx...(answer is 1000 x 'x')...</answer>") == f"<answer>{'x' * 1000}</answer>"
    assert unabridged("xxxxxx...(300 x)...") == "x" * 300
    assert unabridged("wait...(3 boxes)... ok") == "wait...(3 boxes)... ok"


def write(folder: Path, content) -> str:
    path = folder / "cases.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


GOOD = {"id": "g", "preset": "med_r1", "input": {"response": "<answer>B</answer>", "gold": "B"}, "expected": 1.0}


def test_command_prints_every_case_and_returns_0(capsys):
    assert main(["--conformance", str(DATA / "published.json")]) == 0
    out = capsys.readouterr().out
    assert "deepeyes-008: expected 1.8, got 1.8\n" in out and "49 cases: 49 agree, 0 differ, 0 skipped" in out


def test_command_returns_1_on_a_difference(tmp_path, capsys):
    cases = {"cases": [GOOD, GOOD | {"id": "bad", "expected": 0.5}, GOOD | {"id": "part", "expected": {"colour": 1}}]}
    assert main(["--conformance", write(tmp_path, cases)]) == 1
    out = capsys.readouterr().out
    assert "g: expected 1, got 1\n" in out and "bad: expected 0.5, got 1  DIFFERS" in out
    assert "part: expected {colour: 1}, got {colour: None}  DIFFERS" in out and "1 agree, 2 differ" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ({"cases": []}, "has no list of cases"),
        ({"cases": [GOOD | {"preset": "deepeye"}]}, "g has the unknown preset 'deepeye'; known: deepeyes, "),
        ({"cases": [{"id": "g", "preset": "med_r1"}]}, 'g lacks "preset", "input" (an object) or "expected"'),
        ({"cases": [GOOD | {"input": {"text": "a"}}]}, "g: cannot be read: med_r1: input has none of 'response'"),
        ({"cases": [GOOD | {"preset": "medvr", "input": {"acc": [1], "zoom_boxes_xyxy": [[1]], "image": [8, 8]}}]},
         "g: cannot be read: medvr: the input is of another form"),
    ],
)  # fmt: skip
def test_command_returns_2_for_what_it_cannot_read(tmp_path, capsys, content, message):
    assert main(["--conformance", write(tmp_path, content)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("medvista_jax.learning.rewards: ") and message in error and error.count("\n") == 1


def test_one_bad_case_does_not_hide_the_others(tmp_path, capsys):
    cases = {"cases": [GOOD | {"id": "first", "input": {}}, GOOD]}
    assert main(["--conformance", write(tmp_path, cases)]) == 2
    out = capsys.readouterr().out
    assert "g: expected 1, got 1\n" in out and "2 cases: 1 agree, 0 differ, 0 skipped, 1 cannot be read" in out


def test_command_without_a_file(tmp_path, capsys):
    assert main(["--conformance", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_command_runs_as_a_module():
    command = [sys.executable, "-m", "medvista_jax.learning.rewards", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Formula: 0.8 acc + 0.2 fmt + 1.2 [images > 0 and acc > 0.5]" in done.stdout


def test_the_list_says_what_each_is():
    entries = {entry.splitlines()[0]: entry for entry in listing().split("\n\n")}
    for name in READERS.keys() & PRESETS.keys():
        assert all(f"\n  {part}: " in entries[name] for part in ("Formula", "Range", "Source")), name
