"""Judges outside of the compiled program, against a chat server on this machine."""

from __future__ import annotations

import json
import threading
import time

import jax
import numpy as np
import pytest

from medvista_jax.core.types import Trajectory
from medvista_jax.learning.rewards import PRESETS
from medvista_jax.learning.rewards.judge import (
    Claim,
    LanguageModelJudge,
    Ledger,
    Unjudged,
    answers_of,
    binary_verdict,
    host_accuracy,
)
from medvista_jax.tools.host.endpoint import Endpoint
from tests import tiny
from tests.learning.chat_stub import Say, stub
from tests.learning.test_reward_presets import looked, trajectory

CLAIM = Claim("What animal?", "cat", "a cat")


def judge_at(url: str, cache=None, timeout_s: float = 10.0, **more) -> LanguageModelJudge:
    endpoint = Endpoint(url, protocol="chat", model=more.pop("model", "judge-1"), timeout_s=timeout_s)
    return LanguageModelJudge(endpoint, cache, backoff_s=0.01, **more)


@pytest.fixture(scope="module")
def batch() -> Trajectory:
    """Two prompts, three answers each: right by the key, right in other words, none."""
    rows = [looked(b"cat"), looked(b"a small cat"), looked(b""), looked(b"dog"), looked("née".encode()), looked(b"dog")]
    return trajectory(rows)


QUESTIONS, REFERENCES = ["What animal?", "And now?"], ["cat", "dog"]
KEY = tiny.make_key(REFERENCES)


def test_answers_are_read_from_the_bytes(batch):
    assert answers_of(batch) == ["cat", "a small cat", "", "dog", "née", "dog"]


def test_any_function_judges_and_a_group_that_agrees_asks_once(batch):
    seen = []

    def scorer(claim: Claim) -> float:
        seen.append(claim)
        return float(claim.reference in claim.answer)

    judged = host_accuracy(scorer, QUESTIONS, REFERENCES, batch, KEY)
    assert judged.accuracy_B.tolist() == [1, 1, 0, 1, 0, 1] and judged.accuracy_B.dtype == np.float32
    assert judged.judged_B.all() and judged.metrics["judge_unjudged"] == 0 and judged.metrics["judge_answers"] == 5
    assert sorted((c.question, c.answer) for c in seen) == [
        ("And now?", "dog"),
        ("And now?", "née"),
        ("What animal?", "a small cat"),
        ("What animal?", "cat"),
    ]


def test_judged_accuracy_reaches_the_reward_without_a_new_program(batch):
    traces = []

    @jax.jit
    def reward(t, key, accuracy_B):
        traces.append(1)
        return PRESETS["med_r1"](t, key, accuracy_B).total_B

    for value in (1.0, 0.0):
        judged = host_accuracy(lambda claim, value=value: value, QUESTIONS, REFERENCES, batch, KEY)
        total = np.asarray(reward(batch, KEY, judged.accuracy_B))
        assert total.tolist() == [1 + value, 1 + value, 1, 1 + value, 1 + value, 1 + value]
    assert len(traces) == 1


def test_without_a_verdict_exact_match_stands_in_and_is_counted(batch):
    silent = lambda claim: None if claim.question == "What animal?" else 0.25  # noqa: E731
    judged = host_accuracy(silent, QUESTIONS, REFERENCES, batch, KEY)
    assert judged.accuracy_B.tolist() == [1, 0, 0, 0.25, 0.25, 0.25]
    assert judged.judged_B.tolist() == [False, False, True, True, True, True]
    assert judged.metrics["judge_unjudged"] == pytest.approx(2 / 5)
    assert host_accuracy(silent, QUESTIONS, REFERENCES, batch, KEY, fallback=0.5).accuracy_B[:3].tolist() == [
        0.5,
        0.5,
        0,
    ]
    with pytest.raises(Unjudged, match="2 of 6 answers got no verdict.*'cat'"):
        host_accuracy(silent, QUESTIONS, REFERENCES, batch, KEY, fallback="raise")


def test_a_fault_of_the_users_function_is_shown(batch):
    with pytest.raises(ZeroDivisionError):
        host_accuracy(lambda claim: 1 / 0, QUESTIONS, REFERENCES, batch, KEY)
    with pytest.raises(ValueError, match="1 questions and 2 references for 2 prompts"):
        host_accuracy(lambda claim: 1.0, QUESTIONS[:1], REFERENCES, batch, KEY)


def test_no_more_than_workers_at_a_time():
    t, lock, now, most = trajectory([looked(b"%d" % n) for n in range(12)]), threading.Lock(), [0], [0]

    def scorer(claim: Claim) -> float:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        return 1.0

    host_accuracy(scorer, ["q"], ["r"], t, tiny.make_key(["r"]), workers=3)
    assert most[0] == 3


def test_the_judge_asks_and_remembers(tmp_path):
    cache = tmp_path / "new" / "judged.jsonl"
    with stub(lambda prompt: Say("They agree.\nJudgement: 1")) as server:
        judge = judge_at(server.url, cache)
        assert judge(CLAIM) == 1.0 and judge(CLAIM) == 1.0
        assert judge.counts == {"asked": 1, "cached": 1, "failed": 0}
        (request,) = server.requests
        assert request["model"] == "judge-1" and request["temperature"] == 0
        prompt = request["messages"][0]["content"][0]["text"]
        assert all(part in prompt for part in ("What animal?", "Reference answer: cat", "Student's answer: a cat"))
    again = judge_at("http://127.0.0.1:9/v1", cache)  # nobody listens there
    assert again(CLAIM) == 1.0 and again.counts["asked"] == 0
    other = judge_at("http://127.0.0.1:9/v1", cache, model="judge-2", retries=0)
    assert other(CLAIM) is None, "another model must be asked anew"


def test_a_ledger_outlives_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "judged.jsonl"
    Ledger(path).put("a", 1.0, "Judgement: 1")
    path.write_bytes(path.read_bytes() + b'{"key": "b", "verd')
    Ledger(path).put("c", 0.0, "né")
    read = Ledger(path)
    assert (read.get("a"), read.get("b"), read.get("c")) == (1.0, None, 0.0)
    assert len(path.read_text().splitlines()) == 3


def test_garbage_is_no_verdict_and_is_not_remembered(tmp_path):
    cache = tmp_path / "judged.jsonl"
    with stub(lambda prompt: Say("I would say so, perhaps.")) as server:
        judge = judge_at(server.url, cache, retries=1)
        assert judge(CLAIM) is None
        assert judge.counts == {"asked": 2, "cached": 0, "failed": 1} and "perhaps" in judge.last_error
    assert not cache.exists()


def test_replies_that_are_no_chat_are_not_asked_for_twice():
    with stub(lambda prompt: Say(raw=b"<html>")) as server:
        judge = judge_at(server.url, retries=3)
        assert judge(CLAIM) is None and len(server.requests) == 1 and "not JSON" in judge.last_error


def test_a_slow_judge_times_out():
    with stub(lambda prompt: Say("Judgement: 1", hang_s=5.0)) as server:
        judge = judge_at(server.url, timeout_s=0.2, retries=1)
        began = time.monotonic()
        assert judge(CLAIM) is None
        assert time.monotonic() - began < 3.0
        assert judge.counts == {"asked": 2, "cached": 0, "failed": 1} and "Timeout" in judge.last_error


def test_a_busy_judge_is_asked_again():
    replies = [Say(status=503), Say(status=429, headers={"Retry-After": "0"}), Say("Judgement: 0")]
    with stub(lambda prompt: replies.pop(0)) as server:
        judge = judge_at(server.url, retries=2)
        assert judge(CLAIM) == 0.0 and len(server.requests) == 3


def test_a_refusal_is_final():
    with stub(lambda prompt: Say(status=401)) as server:
        judge = judge_at(server.url, retries=3)
        assert judge(CLAIM) is None and len(server.requests) == 1 and "401" in judge.last_error


def test_settings_are_checked():
    with pytest.raises(ValueError, match="speaks the 'chat' protocol"):
        LanguageModelJudge(Endpoint("http://127.0.0.1:9/v1"))
    with pytest.raises(ValueError, match="prompt may have"):
        judge_at("http://127.0.0.1:9/v1", prompt="{gold}")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Judgement: 1", 1.0),
        ("judgment: 0.", 0.0),
        ("**Judgement:** 1", 1.0),
        ("1", 1.0),
        (" 0\n", 0.0),
        ("Judgement: 0 … no, Judgement: 1", 1.0),
        ("Judgement: 10", None),
        ("Judgement: 0.5", None),
        ("yes", None),
        ("", None),
        ("There are 1 or 0 cats", None),
    ],
)
def test_verdicts(reply, expected):
    assert binary_verdict(reply) == expected


def test_the_ledger_is_json_lines(tmp_path):
    path = tmp_path / "judged.jsonl"
    Ledger(path).put("k", 1.0, "Judgement: 1")
    assert json.loads(path.read_text()) == {"key": "k", "verdict": 1.0, "reply": "Judgement: 1"}
