"""Constrained decoding inside the rollout: a random policy that cannot but speak the dialect, and its loss."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from medvista_jax.core.types import Fault, Kind
from medvista_jax.environment.build import build_environment
from medvista_jax.learning.losses import score_tokens
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny

SPECS = [tool.spec for tool in DEFAULT_TOOLS.values()]


@functools.cache
def environment():
    tools = tuple(DEFAULT_TOOLS.values())
    sizes = (tiny.MODEL.tokens_per_image, tiny.MODEL.image_size, tiny.TURNS, tiny.TURN_TOKENS)
    return build_environment(tiny.TOKENIZER, tools, *sizes, constrained=True)


_play = jax.jit(rollout, static_argnames=("model", "group"))
_score = jax.jit(score_tokens, static_argnames=("model",))


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["greedy", "sampled"])
def played(request):
    question = tiny.make_question(max_calls=(3, 1, 0), max_turns=(3, 3, 2))
    script = tiny.make_script([(), ("so be it", tiny.ZOOM), (), (), (), ()])  # row 1 says what no constraint allows
    sampling = Sampling.at(request.param)
    key = jax.random.key(3)
    return _play(tiny.MODEL, tiny.params(), environment(), question, key, 2, sampling, script), request.param


def test_every_sampled_turn_is_well_formed_and_ends(played):
    t = jax.tree.map(np.asarray, played[0])
    kinds = set()
    for row in (0, 2, 3, 4, 5):
        for turn in range(int(t.turns_B[row])):
            ids = t.tokens_BS[row][t.sampled_BS[row] & (t.turn_BS[row] == turn)]
            said = parse_turn_text(SPECS, tiny.TOKENIZER.decode(ids.tolist()).encode(), 256, 64)
            assert said.well_formed and said.fault in (Fault.NONE, Fault.EMPTY_BOX)
            assert said.kind == t.turns.kind_BR[row, turn] and len(ids) <= tiny.TURN_TOKENS
            kinds.add(said.kind)
    assert Kind.ANSWER in kinds and Kind.NOTHING not in kinds


def test_rows_answer_when_they_must(played):
    """No row runs out of turns or of calls: its last turn could only be an answer."""
    t = jax.tree.map(np.asarray, played[0])
    assert not t.truncated_B[[0, 2, 3, 4, 5]].any()
    assert (t.calls_B <= [3, 3, 1, 1, 0, 0]).all()
    assert not (t.turns.fault_BR == Fault.NO_CALLS_LEFT).any()


def test_scripted_turns_are_under_no_constraint(played):
    t = jax.tree.map(np.asarray, played[0])
    scripted = t.sampled_BS[1] & (t.turn_BS[1] < 2)
    assert scripted.any() and (t.allowed_BS[1][scripted] == -1).all()
    assert t.turns.fault_BR[1, 0] == Fault.NO_ACTION and np.isfinite(t.logprobs_BS).all()
    free = t.sampled_BS[0]
    assert (t.allowed_BS[0][free] >= 0).all() and (t.allowed_BS[0][~free] == -1).all()


def test_rollout_and_loss_agree_on_the_probabilities(played):
    """Promise 2 under the masks; without them the loss sees another distribution."""
    t, temperature = played
    gap = lambda constraint: np.abs(  # noqa: E731
        np.asarray(
            _score(tiny.MODEL, tiny.params(), t, t.features_BILE, np.float32(temperature), constraint).logprob_BS
            - t.logprobs_BS
        )
    )
    assert gap(environment().constraint).max() <= 1e-4
    assert gap(None).max() > 0.1
    scores = _score(tiny.MODEL, tiny.params(), t, t.features_BILE, np.float32(1.0), environment().constraint)
    assert np.isfinite(np.asarray(scores.entropy_BS)).all() and (np.asarray(scores.entropy_BS) >= 0).all()


def test_an_answer_can_be_forced_where_it_is_due_and_nowhere_else():
    """``constrained="answers"``: free turns say what they like; whoever must answer does, within the turn's limit."""
    tools = tuple(DEFAULT_TOOLS.values())
    sizes = (tiny.MODEL.tokens_per_image, tiny.MODEL.image_size, tiny.TURNS, tiny.TURN_TOKENS)
    forced = build_environment(tiny.TOKENIZER, tools, *sizes, constrained="answers")
    limits = np.full((3, tiny.TURNS), 24, np.int32)
    limits[0] = (5, 9, 30)
    question = tiny.make_question(max_calls=(3, 1, 0), max_turns=(3, 2, 1)).replace(turn_tokens_PR=limits)
    trajectory = _play(tiny.MODEL, tiny.params(), forced, question, jax.random.key(3), 2, Sampling.at(1.0), None)
    t = jax.tree.map(np.asarray, trajectory)
    assert not t.truncated_B.any() and (t.turns_B == [3, 3, 2, 2, 1, 1]).all()
    for row in range(6):
        last = t.turns_B[row] - 1
        spoken = t.turns.kind_BR[row, : last + 1]
        assert spoken[-1] == Kind.ANSWER and t.turns.well_formed_BR[row, last]
        assert (spoken[:-1] == Kind.NOTHING).all()  # a random policy left free babbles until its limit
        assert (t.turns.length_BR[row, :last] == limits[row // 2, :last]).all()
        assert t.turns.length_BR[row, last] <= limits[row // 2, last]
        free_S = t.sampled_BS[row] & (t.turn_BS[row] < last)
        due_S = t.sampled_BS[row] & (t.turn_BS[row] == last)
        assert (t.allowed_BS[row][free_S] == -1).all() and (t.allowed_BS[row][due_S] >= 0).all()
    scores = _score(tiny.MODEL, tiny.params(), trajectory, trajectory.features_BILE, np.float32(1.0), forced.constraint)
    assert np.abs(np.asarray(scores.logprob_BS) - t.logprobs_BS).max() <= 1e-4
