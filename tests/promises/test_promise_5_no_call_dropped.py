"""Promise 5, seen from the rollout: every fault is read by the policy, which goes on. Each fault by ``step`` alone is
in tests/environment/test_gym.py."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.text.chat import ERRORS
from tests import tiny

BAD = (
    ("<tool_call>{</tool_call>", Fault.MALFORMED),
    ('<tool_call>{"name": "draw", "arguments": {}}</tool_call>', Fault.UNKNOWN_TOOL),
    ('<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [5, 5, 5, 9]}}</tool_call>', Fault.EMPTY_BOX),
    (tiny.ZOOM_AGAIN, Fault.NO_SUCH_IMAGE),
    ("no idea", Fault.NO_ACTION),
    (tiny.ZOOM, Fault.NO_CALLS_LEFT),
)


@pytest.fixture(scope="module")
def trajectory():
    question = tiny.make_question(max_calls=(3, 3, 0))
    return tiny.played(tiny.make_script([(text, "", "") for text, _ in BAD]), question)


@pytest.mark.parametrize("row", range(len(BAD)), ids=[fault.name for _, fault in BAD])
def test_the_fault_is_noted_read_and_survived(trajectory, row):
    text, fault = BAD[row]
    if row == 4:
        fault = Fault.NO_ACTION
    assert int(trajectory.turns.fault_BR[row, 0]) == fault
    seen = tiny.texts_of(trajectory, row)
    assert f"{text}<|im_end|>\n<|im_start|>user\n<tool_response>{ERRORS[fault]}" in seen
    allowed = 2 if fault == Fault.NO_CALLS_LEFT else 3  # a spent budget leaves one turn to answer in
    assert int(trajectory.turns_B[row]) == allowed
    assert int((trajectory.turn_BS[row] == 1).sum()) > 0
    assert bool(trajectory.truncated_B[row]) == (int(trajectory.answer_length_B[row]) == 0)
    assert int(trajectory.views.count_B[row]) == 1


def test_nothing_is_left_unfinished(trajectory):
    t = jax.tree.map(np.asarray, trajectory)
    assert (t.turns_B >= 1).all()
    kinds = t.turns.kind_BR[np.arange(6), t.turns_B - 1]
    assert ((kinds == 2) | t.truncated_B).all()  # an answer came last, or the row says that none did
    assert np.isfinite(t.logprobs_BS).all()
