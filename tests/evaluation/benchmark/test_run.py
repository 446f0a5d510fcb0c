"""Runs on miniatures: lines, resuming, results, comparisons, the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from medvista_jax.evaluation.benchmark import BadRun, RecordedPolicy, Settings, run_set
from medvista_jax.evaluation.benchmark.__main__ import main
from medvista_jax.evaluation.benchmark.compare import compare
from medvista_jax.evaluation.benchmark.lines import read_lines
from medvista_jax.evaluation.protocols import Selection, protocol_of
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.progress import Progress
from tests.evaluation import miniatures

REPLIES = {
    "vqa_rad": {
        "test-0": "<answer>Yes</answer>",
        "test-1": "<answer>A</answer>",
        "test-2": "I cannot tell.",
        "test-3": "free air",
        "test-4": "lateral",
    },
    "slake": {"1": "<answer>B</answer>", "2": "<answer>liver</answer>", "3": "MRI", "4": "是", "5": "肝"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return miniatures.prepared(tmp_path_factory.mktemp("sets"), "vqa_rad", "slake")


def written(path, replies=REPLIES, changes=()):
    lines = [{"set": name, "id": key, "reply": text} for name, of in replies.items() for key, text in of.items()]
    lines += [{"set": name, "id": key, "reply": text} for name, key, text in changes]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


class Counting:
    """A policy that notes what it was asked."""

    name, tools = "counting", ()

    def __init__(self, interrupts=None):
        self.asked, self.interrupts = [], interrupts

    def reply(self, asks):
        self.asked += [ask.id for ask in asks]
        if self.interrupts is not None:
            self.interrupts.requested = True
        return [REPLIES[ask.set][ask.id] for ask in asks]


def ran(folder, out, policy, name="vqa_rad", protocol="medevalkit", interrupts=None, changes=None, **more):
    protocol = protocol_of(protocol)
    selection = Selection(protocol.rule(name), folder, miniature=True)
    settings = Settings.of(protocol, **(changes or {}))
    interrupts = interrupts or Interrupts()
    return run_set(
        protocol, name, selection, policy, out, settings, progress=Progress(), interrupts=interrupts, at_once=2, **more
    )


def test_lines_and_result(folder, tmp_path):
    result = ran(folder, tmp_path, Counting())
    lines = read_lines(tmp_path / "vqa_rad.jsonl")
    assert list(lines) == ["test-0", "test-1", "test-2", "test-3", "test-4"]
    assert lines["test-0"] | {"fixed": 0} == {
        "set": "vqa_rad",
        "id": "test-0",
        "kind": "yes/no",
        "reply": "<answer>Yes</answer>",
        "parse": "yes",
        "right": True,
        "unparsable": False,
        "fixed": 0,
        "strict": {"right": True, "parse": None, "fault": ""},
        "judge": None,
    }
    assert [line["right"] for line in lines.values()] == [True, False, False, True, False]
    theirs = stats.binomtest(2, 5).proportion_ci(method="wilson")
    assert (result["right"], result["n"], result["accuracy"]) == (2, 5, 0.4)
    assert result["ci95"] == pytest.approx([theirs.low, theirs.high])
    assert (result["unparsable"], result["by_kind"]["open"]["n"], result["by_kind"]["closed"]["right"]) == (1, 3, 1)
    assert (result["data_set"], result["split"], result["size"]) == ("VQA-RAD", "test", "5 of 451")
    assert (result["scorer"], result["tools"], result["seeds"], result["changed"]) == ("fixed", False, [42], {})
    assert result["protocol_line"] == protocol_of("medevalkit").line()
    assert result["versions"]["jax"] and result["date"].endswith("+00:00") and "commit" in result
    assert json.loads((tmp_path / "vqa_rad.result.json").read_text()) == result


def test_the_strict_scorer_and_a_change_are_named(folder, tmp_path):
    result = ran(folder, tmp_path, Counting(), changes={"scorer": "strict", "max_new_tokens": 64})
    assert result["scorer"] == "strict (medevalkit.vqa_rad_pathvqa)"
    assert result["changed"] == {"max_new_tokens": {"here": 64, "protocol": 8192}}
    # "I cannot tell" has the letters n and o: upstream takes it for no, which is right.
    assert (result["right"], result["fixed"]["right"], result["strict"]["right"]) == (3, 2, 3)


def test_a_stopped_run_goes_on_at_the_question(folder, tmp_path):
    interrupts = Interrupts()
    first = Counting(interrupts)
    with pytest.raises(Interrupted, match="2 of 5 answers"):
        ran(folder, tmp_path, first, interrupts=interrupts)
    path = tmp_path / "vqa_rad.jsonl"
    path.write_bytes(path.read_bytes() + b'{"set": "vqa_rad", "id": "test-2", "rep')  # killed while writing
    with pytest.raises(BadRun, match="is there: go on with --resume"):
        ran(folder, tmp_path, Counting())
    second = Counting()
    resumed = ran(folder, tmp_path, second, resume=True)
    assert (first.asked, second.asked) == (["test-0", "test-1"], ["test-2", "test-3", "test-4"])
    whole = ran(folder, tmp_path / "whole", Counting())
    assert path.read_bytes() == (tmp_path / "whole" / "vqa_rad.jsonl").read_bytes()
    assert {key: value for key, value in resumed.items() if key != "date"} == {
        key: value for key, value in whole.items() if key != "date"
    }
    again = Counting()
    ran(folder, tmp_path, again, resume=True)
    assert again.asked == []


def test_other_settings_do_not_go_on(folder, tmp_path):
    ran(folder, tmp_path, Counting())
    with pytest.raises(BadRun, match="made with seed 42, not 7; name another --out"):
        ran(folder, tmp_path, Counting(), resume=True, changes={"seed": 7})
    with pytest.raises(BadRun, match="made with protocol 'medevalkit', not 'medvlthinker'"):
        ran(folder, tmp_path, Counting(), resume=True, protocol="medvlthinker")


def test_a_policy_sees_no_answer(folder):
    selection = Selection(protocol_of("medevalkit").rule("vqa_rad"), folder, miniature=True)
    asks = [case.ask for case in selection]
    assert set(vars(asks[0])) == {"set", "id", "text", "images"}
    for ask, (_, answer) in zip(asks, miniatures.VQA_RAD, strict=True):
        assert answer.lower() in ("yes", "no", "right") or answer not in ask.text


def command(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_command(folder, tmp_path, capsys):
    out, replies = tmp_path / "a", written(tmp_path / "a.jsonl")
    fixed = ("--protocol", "medvlthinker", "--sets", "vqa_rad,slake", "--data", folder, "--subset")
    assert command(*fixed, "--replies", replies, "--out", out) == 0
    text = capsys.readouterr().out
    assert "VQA-RAD (test; closed: answered by yes or no, or the question says 'or'): 33.33 % [6.15, 79.23]" in text
    assert "1 of 3, 1 unparsable; scorer fixed; tools off; seed 42" in text
    assert f"  {protocol_of('medvlthinker').line()}" in text and "a miniature: 3 of 272 questions" in text
    better = written(tmp_path / "b.jsonl", changes=[("vqa_rad", "test-1", "B"), ("slake", "1", "<answer>A</answer>")])
    assert command(*fixed, "--replies", better, "--out", tmp_path / "b", "--tools", "--seed", "1") == 0
    assert "tools zoom_in, adjust_window; seed 1" in capsys.readouterr().out
    found = compare(tmp_path / "b", out)
    assert list(found["sets"]) == ["slake", "vqa_rad", "all"]
    assert {key: found["sets"]["all"][key] for key in ("n", "a_only", "b_only")} == {"n": 5, "a_only": 2, "b_only": 0}
    assert found["sets"]["all"]["p"] == pytest.approx(stats.binomtest(0, 2).pvalue)
    assert found["sets"]["all"]["difference"] == pytest.approx(0.4)
    assert command("--compare", tmp_path / "b", out) == 0
    text = capsys.readouterr().out
    assert "all" in text and "+40.00" in text and "McNemar p (exact)" in text
    assert command("--mean", out, tmp_path / "b") == 2  # one had tools
    assert "tools" in capsys.readouterr().err
    assert command(*fixed, "--replies", better, "--out", tmp_path / "c", "--seed", "2") == 0
    capsys.readouterr()
    assert command("--mean", out, tmp_path / "c") == 0
    half = stats.t.ppf(0.975, 1) * np.std([100 / 3, 200 / 3], ddof=1) / np.sqrt(2)
    assert (
        f"vqa_rad        n 3: 50.00 %, 95 % of the mean [{50 - half:.2f}, {50 + half:.2f}]" in capsys.readouterr().out
    )


def test_faults_are_one_line(folder, tmp_path, capsys):
    replies = written(tmp_path / "r.jsonl", {"vqa_rad": {"test-0": "Yes"}})
    (tmp_path / "bad.jsonl").write_text('{"id": "test-0"}\n')
    good = ["--protocol", "medvlthinker", "--sets", "vqa_rad", "--data", folder, "--subset", "--out", tmp_path / "o"]
    assert command(*good[:3], "vqa_rad", *good[4:], "--replies", written(tmp_path / "all.jsonl")) == 0
    assert command(*good[:-1], tmp_path / "other", "--replies", tmp_path / "all.jsonl", "--scorer", "strict") == 0
    capsys.readouterr()
    for arguments, part in (
        ([*good, "--replies", tmp_path / "none.jsonl"], "none.jsonl: the replies cannot be read"),
        ([*good, "--replies", tmp_path / "bad.jsonl"], 'bad.jsonl, line 1: is no {"id"'),
        ([*good[:-1], tmp_path / "p", "--replies", replies], "has no reply to 'test-1' of vqa_rad"),
        ([*good, "--replies", replies], "go on with --resume, or name another --out"),
        ([*good], "name what answers: --model FOLDER or --replies FILE"),
        (["--sets", "vqa_rad"], "--protocol and --out must be named"),
        (["--protocol", "medvl", *good[2:], "--replies", replies], "no protocol 'medvl'"),
        ([*good[:3], "slakes", *good[4:], "--replies", replies], "has no set 'slakes'"),
        ([*good[:3], "path_vqa", *good[4:], "--replies", replies], "has not been prepared"),
        ([*good, "--model", tmp_path], "config.json"),
        ([*good, "--replies", replies, "--judge", "http://127.0.0.1:9/v1"], "--judge needs --judge-model"),
        (["--compare", tmp_path / "o", tmp_path / "none"], "has no results"),
        (["--compare", tmp_path / "o", tmp_path / "other"], "these do not compare"),
        (["--mean", tmp_path / "o", tmp_path / "o"], "one checkpoint and one seed"),
    ):
        assert command(*arguments) == 2, arguments
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("medvista_jax.evaluation.benchmark: ") and part in said[-1], said
        assert "Traceback" not in "".join(said)


def test_replies_of_a_run_are_replies(folder, tmp_path):
    ran(folder, tmp_path, Counting())
    again = ran(folder, tmp_path / "again", RecordedPolicy(tmp_path / "vqa_rad.jsonl"))
    assert again["right"] == 2
