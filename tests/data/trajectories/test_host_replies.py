"""What host tools said is kept with the turn that asked, and a replay hands it back: no tool runs again."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.data.trajectories import HostLog, RecordedReplies, Writer, encode_turns, read_records, records_of
from medvista_jax.tools.host.call import HostCall
from tests import tiny
from tests.data.trajectories.test_own_rollouts import CHAT, SOURCE, items_of
from tests.rollout import test_host_loop as host


@pytest.fixture(scope="module")
def logged():
    log = HostLog()
    return host.played(run=log.run), log


@pytest.fixture(scope="module")
def records(logged, tmp_path_factory):
    trajectory, log = logged
    question = tiny.make_question()
    path = tmp_path_factory.mktemp("host") / "t.jsonl"
    with Writer(path) as out:
        for record in records_of(host.environment(), CHAT, items_of(question), question, trajectory, SOURCE, host=log):
            out.write(record)
    return list(read_records(path))


def test_replies_stand_with_the_turns_that_asked(records):
    words = [[turn.host and (turn.host.tool, turn.host.text, turn.host.fault) for turn in r.turns] for r in records]
    assert words[0][0] == ("echo", "no</answer> 256x205", "NONE")
    assert words[1][0] is None and words[1][1][0] == "echo" and words[1][1][1].startswith("two ")
    assert words[2][:2] == [("fail", "", "TOOL_FAILED"), ("fail", "", "TOOL_TIMED_OUT")]
    assert words[3][0] is None and records[3].turns[0].fault == "NO_SUCH_IMAGE"  # nobody was asked
    assert words[5] == [None]
    # The reply is whole; what the policy read was cut to the 24 tokens that there is room for.
    assert records[0].turns[0].observation.text == "no</answer> 256x205"
    assert records[0].tools[2]["function"]["name"] == "echo"


def test_a_replay_asks_nobody_and_is_the_same(logged, records, monkeypatch):
    trajectory, _ = logged
    monkeypatch.setattr(host, "run_batch", None)
    tokens, lengths = encode_turns(records, tiny.TOKENIZER, tiny.TURNS, tiny.TURN_TOKENS)
    rows = [[tokens[row, turn, : lengths[row, turn]].tolist() for turn in range(3)] for row in range(6)]
    again = host.played(rows, run=RecordedReplies(records))
    for name in ("tokens_BS", "valid_BS", "sampled_BS", "feature_BS", "turn_BS", "answer_BN"):
        np.testing.assert_array_equal(np.asarray(getattr(again, name)), np.asarray(getattr(trajectory, name)), name)


def test_other_calls_than_those_recorded_are_refused(records):
    replies = RecordedReplies(records[:1])
    with pytest.raises(ValueError, match="fail is asked for a reply, but test/two/000000, turn 0 hold one of echo"):
        replies({}, [HostCall("fail", None, {})])
    with pytest.raises(ValueError, match="echo is asked for a reply, but the records hold none"):
        RecordedReplies([])({}, [HostCall("echo", None, {})])


def test_a_log_of_another_rollout_is_refused(logged):
    trajectory, log = logged
    question = tiny.make_question()
    other = HostLog()
    other.batches = [*log.batches, log.batches[0]]
    with pytest.raises(ValueError, match="does not belong to this trajectory"):
        list(records_of(host.environment(), CHAT, items_of(question), question, trajectory, SOURCE, host=other))
    assert Fault.TOOL_FAILED in {reply.fault for batch in log.batches for reply in batch.replies}
