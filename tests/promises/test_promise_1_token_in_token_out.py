"""Promise 1: the ids that were sampled are the ids that are trained on, and only they carry loss."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.learning.losses import clipped_surrogate, mean_over, score_tokens
from tests import tiny


def by_characters(text: str) -> list[int]:
    """Ids of the characters one by one: never what the tokenizer would choose."""
    return [i for character in text for i in tiny.TOKENIZER.encode(character)]


ODD = "<think>x</think><answer>left</answer>"


@pytest.fixture(scope="module")
def spelt():
    """Row 0 spells tags and words in characters; row 1 says the same in the tokenizer's own ids."""
    rows = [(by_characters(ODD),), (ODD,), (by_characters("<answer>A</answer>"),), (), (), ()]
    return tiny.played(tiny.make_script(rows))


def test_ids_that_would_be_encoded_otherwise_survive(spelt):
    ids = by_characters(ODD)
    assert tiny.TOKENIZER.decode(ids) == ODD and tiny.TOKENIZER.encode(ODD) != ids
    tokens, sampled = np.asarray(spelt.tokens_BS), np.asarray(spelt.sampled_BS)
    assert tokens[0][sampled[0]].tolist() == ids
    assert tokens[1][sampled[1]].tolist() == tiny.TOKENIZER.encode(ODD)


def test_the_environment_read_the_same_text_from_other_ids(spelt):
    for row in (0, 1):
        assert bytes(np.asarray(spelt.answer_BN[row, :5])) == b"left\0"
        assert int(spelt.turns_B[row]) == 1 and bool(spelt.turns.well_formed_BR[row, 0])


def test_packing_keeps_every_id(spelt):
    packed = tiny.packed(spelt, int(spelt.valid_BS.sum(1).max()))
    for row in range(6):
        mine = lambda t, row=row: np.asarray(t.tokens_BS[row])[np.asarray(t.sampled_BS[row])].tolist()  # noqa: E731
        assert mine(packed) == mine(spelt)


def test_sampled_ids_are_the_choice_of_the_model():
    """Greedy: each id at a sampled slot is the argmax of a fresh forward over what stands before it."""
    t = tiny.played(tiny.make_script(tiny.MIXED), temperature=0.0)
    hidden, _ = tiny.forward(tiny.params(), t.tokens_BS, t.feature_BS, t.features_BILE, t.positions_BSZ, t.valid_BS)
    best = np.asarray(tiny.logits(tiny.params(), hidden).argmax(-1))
    scripted = np.asarray(tiny.make_script(tiny.MIXED).length_BR) > 0
    compared = 0
    for row in range(6):
        slots = np.flatnonzero(np.asarray(t.valid_BS[row]))
        for before, slot in zip(slots, slots[1:], strict=False):
            if bool(t.sampled_BS[row, slot]) and not scripted[row, int(t.turn_BS[row, slot])]:
                assert best[row, before] == int(t.tokens_BS[row, slot])
                compared += 1
    assert compared > 100


def test_sampled_slots_are_the_turns(spelt):
    """Lengths that the environment was told, slots marked sampled and turn numbers tell the same story."""
    t = jax.tree.map(np.asarray, spelt)
    assert (t.sampled_BS == (t.turn_BS >= 0)).all() and not (t.sampled_BS & ~t.valid_BS).any()
    for turn in range(tiny.TURNS):
        assert ((t.turn_BS == turn).sum(1) == t.turns.length_BR[:, turn]).all()
    assert (t.logprobs_BS[~t.sampled_BS] == 0).all() and (t.logprobs_BS[t.sampled_BS] < 0).all()


@dataclasses.dataclass(frozen=True)
class Bumped:
    """The model with a term added to its hidden states, slot by slot: which of them the loss reads, gradients tell."""

    base: object

    def forward(self, params, *rest):
        hidden_BSE, cache = self.base.forward(params["base"], *rest)
        return hidden_BSE + params["bump"], cache

    def logits(self, params, hidden):
        return self.base.logits(params["base"], hidden)


def slots_that_choose(t) -> np.ndarray:
    """bool ``[B, S]``: the last valid slot before each sampled one."""
    valid, sampled = np.asarray(t.valid_BS), np.asarray(t.sampled_BS)
    chooses = np.zeros_like(sampled)
    for row, slot in zip(*np.nonzero(sampled), strict=True):
        chooses[row, np.flatnonzero(valid[row, :slot])[-1]] = True
    return chooses


def test_loss_touches_the_sampled_slots_and_no_other():
    t = tiny.played(tiny.make_script(tiny.MIXED))
    model = Bumped(tiny.MODEL)
    advantage = jnp.array([1.0, -1.0, 0.5, -0.5, 2.0, -2.0])

    def losses(bump):
        params = {"base": tiny.params(), "bump": bump}
        scores = score_tokens(model, params, t, t.features_BILE, jnp.ones(()))
        gain_BS, _ = clipped_surrogate(scores.logprob_BS, t.logprobs_BS, advantage, 0.2, 0.2)
        return jnp.stack([mean_over(gain_BS, t.sampled_BS), mean_over(scores.logprob_BS, t.sampled_BS)])

    def touched(bump):
        _, pull = jax.vjp(losses, bump)
        return [jnp.any(pull(one)[0] != 0, axis=-1) for one in jnp.eye(2)]

    expected_BS = slots_that_choose(t)
    assert expected_BS.sum() == int(t.sampled_BS.sum())
    width = tiny.MODEL.config.decoder.width
    for touched_BS in jax.jit(touched)(jnp.zeros((*t.tokens_BS.shape, width))):
        np.testing.assert_array_equal(np.asarray(touched_BS), expected_BS)


def test_what_the_environment_says_is_never_a_target():
    """Another id at the very last observation slot changes no score before it and no mask; it is context only."""
    t = tiny.played(tiny.make_script(tiny.MIXED))
    base = tiny.score(tiny.MODEL, tiny.params(), t, t.features_BILE, jnp.ones(()))
    row = 0
    observed = np.asarray(t.valid_BS[row] & ~t.sampled_BS[row] & (t.feature_BS[row] < 0))
    last = int(np.flatnonzero(observed & (np.arange(observed.size) > tiny.PROMPT_SLOTS))[-1])
    other = t.replace(tokens_BS=t.tokens_BS.at[row, last].add(1))
    moved = tiny.score(tiny.MODEL, tiny.params(), other, t.features_BILE, jnp.ones(()))
    a, b = np.asarray(base.logprob_BS), np.asarray(moved.logprob_BS)
    np.testing.assert_array_equal(a[row, :last], b[row, :last])
    np.testing.assert_array_equal(a[1:], b[1:])
    assert np.abs(a[row, last + 1 :] - b[row, last + 1 :]).max() > 1e-4
    assert a[row, last] == b[row, last] == 0.0
    loss, _ = tiny.policy_loss(t, jnp.ones(6))
    np.testing.assert_allclose(float(loss), -1.0, atol=1e-5)  # ratio 1 at every sampled token, advantage 1
