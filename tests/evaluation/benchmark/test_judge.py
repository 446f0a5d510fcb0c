"""The judge of open questions, against a chat server on this machine."""

from __future__ import annotations

import json

import pytest

from medvista_jax.evaluation.benchmark.__main__ import main
from medvista_jax.evaluation.judge import Judge, JudgeFailed, Verdict
from medvista_jax.learning.rewards.judge import PROMPT
from tests.evaluation import miniatures
from tests.learning.chat_stub import Say, stub

CLAIMS = [("Where?", "left lung", "in the left lung"), ("Where?", "left lung", "right"), ("Where?", "left lung", "?")]


def script(prompt):
    if "in the left lung" in prompt or "gas" in prompt:
        return Say("<think>the same</think>Judgement: 1")
    return Say("Judgement: 0" if "answer: right" in prompt else "Perhaps; who knows.")


def test_verdicts_are_seeded_cached_and_never_drawn(tmp_path):
    cache = tmp_path / "judge.jsonl"
    with stub(script) as server:
        judge = Judge(server.url, "j", cache, seed=5)
        assert judge.verdicts(CLAIMS) == [Verdict(True), Verdict(False), Verdict(False, unparsable=True)]
        assert judge.verdicts([("Where?", "left lung", " ")]) == [Verdict(False, unparsable=True)]  # nobody is asked
        assert len(server.requests) == 3
        for request in server.requests:
            assert (request["model"], request["temperature"], request["seed"]) == ("j", 0, 5)
        again = Judge(server.url, "j", cache, seed=5)
        assert again.verdicts(CLAIMS)[2] == Verdict(False, unparsable=True)
        assert len(server.requests) == 3 and again.counts == {"asked": 0, "cached": 3, "failed": 0}
        Judge(server.url, "j", cache, seed=6).verdicts(CLAIMS[:1])
        Judge(server.url, "other", cache, seed=5).verdicts(CLAIMS[:1])
        assert len(server.requests) == 5
        assert judge.about() == {
            "url": f"{server.url}/chat/completions",
            "model": "j",
            "seed": 5,
            "temperature": 0,
            "prompt": PROMPT,
        }


def test_a_busy_server_is_asked_again_and_a_silent_one_ends_the_run():
    said = []

    def busy(prompt):
        said.append(prompt)
        return Say("Judgement: 1") if len(said) > 1 else Say(status=503)

    with stub(busy) as server:
        assert Judge(server.url, "j", backoff_s=0.001).verdicts(CLAIMS[:1]) == [Verdict(True)]
    with stub(lambda prompt: Say("Judgement: 1", hang_s=30)) as server:
        judge = Judge(server.url, "j", timeout_s=0.2, retries=1, backoff_s=0.001)
        with pytest.raises(JudgeFailed, match=r"no verdict on 1 of 1 answers: http.*Timeout.*--resume") as caught:
            judge.verdicts(CLAIMS[:1])
        assert "\n" not in str(caught.value) and len(server.requests) == 2
    with pytest.raises(JudgeFailed, match="http://127.0.0.1:9/v1/chat/completions"):
        Judge("http://127.0.0.1:9/v1", "j", retries=0).verdicts(CLAIMS[:1])
    with pytest.raises(ValueError, match="is not an address"):
        Judge("nowhere", "j")


def test_a_judge_decides_open_questions_only(tmp_path, capsys):
    folder = miniatures.prepared(tmp_path, "vqa_rad")
    replies = {"test-0": "no", "test-1": "<think>left?</think><answer>right</answer>", "test-2": "no"}
    replies |= {"test-3": "gas, as in free air", "test-4": "lateral"}
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps({"id": key, "reply": text}) + "\n" for key, text in replies.items()))
    run = ["--protocol", "medevalkit", "--sets", "vqa_rad", "--data", folder, "--subset", "--replies", path]
    with stub(script) as server:
        out = ["--out", tmp_path / "judged", "--judge", server.url, "--judge-model", "j"]
        assert main(list(map(str, run + out))) == 0
        prompts = [request["messages"][0]["content"][0]["text"] for request in server.requests]
    assert "open questions by the judge j" in capsys.readouterr().out
    assert len(prompts) == 3 and any(
        "Student's answer: right\n" in prompt for prompt in prompts
    )  # what was thought is not shown
    lines = [json.loads(line) for line in (tmp_path / "judged" / "vqa_rad.jsonl").read_text().splitlines()]
    assert [line["right"] for line in lines] == [False, False, True, True, False]
    assert [line["judge"] and line["judge"]["unparsable"] for line in lines] == [None, False, None, False, True]
    result = json.loads((tmp_path / "judged" / "vqa_rad.result.json").read_text())
    assert (result["right"], result["unparsable"], result["judge"]["prompt"]) == (2, 1, PROMPT)
    assert result["fixed"]["right"] == 2  # closed as before; of the open ones "right" alone is exact
    # Nobody listens: the run ends in one line and goes on later.
    out = ["--out", tmp_path / "dead", "--judge", "http://127.0.0.1:9/v1", "--judge-model", "j"]
    assert main([*map(str, run + out)]) == 2
    assert "gave no verdict" in capsys.readouterr().err.splitlines()[-1]
