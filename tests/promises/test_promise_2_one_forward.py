"""Promise 2: rollout and loss call the same model functions and agree to 1e-4 per token in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.rollout.sampling import Sampling
from tests import tiny


@pytest.fixture(scope="module", params=[1.0, 0.7])
def played(request):
    question = tiny.make_question(max_turns=(3, 3, 2))
    script = tiny.make_script(tiny.MIXED)
    temperature = request.param
    trajectory = tiny.play(
        tiny.MODEL,
        tiny.params(),
        tiny.environment(),
        question,
        jax.random.key(1),
        2,
        Sampling.at(temperature),
        script,
    )
    return temperature, trajectory


def test_the_case_is_as_hard_as_it_claims(played):
    _, t = played
    assert np.asarray(t.views.count_B).tolist() == [2, 3, 1, 2, 2, 1]  # views shown in several turns
    assert np.asarray(t.turns_B)[[0, 2, 3]].tolist() == [3, 1, 3]
    lengths = np.asarray(t.valid_BS.sum(1))
    assert len(set(lengths.tolist())) >= 4  # ragged
    holes = ~np.asarray(t.valid_BS)
    first_hole = holes.argmax(1)
    assert all(np.asarray(t.valid_BS)[row, first_hole[row] :].any() for row in (0, 1, 3))  # padding inside a sequence
    assert (np.asarray(t.feature_BS) >= tiny.MODEL.tokens_per_image).any()  # embeddings of views, not only originals


@pytest.mark.parametrize("packed", [False, True])
def test_behaviour_and_training_log_probabilities_agree(played, packed):
    temperature, t = played
    seen = tiny.packed(t, int(t.valid_BS.sum(1).max())) if packed else t
    scores = tiny.score(tiny.MODEL, tiny.params(), seen, t.features_BILE, jnp.float32(temperature))
    gap = np.abs(np.asarray(scores.logprob_BS) - np.asarray(seen.logprobs_BS))
    assert int(seen.sampled_BS.sum()) > 200
    assert gap.max() <= 1e-4
    at_other_temperature = tiny.score(tiny.MODEL, tiny.params(), seen, t.features_BILE, jnp.float32(1.7 - temperature))
    other = np.abs(np.asarray(at_other_temperature.logprob_BS) - np.asarray(seen.logprobs_BS))
    assert other.max() > 0.1  # the comparison is not blind


def test_every_step_against_a_fresh_forward_of_the_prefix(played):
    """Independent of ``score_tokens``: the prefix of one row alone, no cache, no padding, log-softmax in numpy."""
    temperature, t = played
    row = 1
    valid = np.asarray(t.valid_BS[row])
    tokens, feature = np.asarray(t.tokens_BS[row])[valid], np.asarray(t.feature_BS[row])[valid]
    sampled, behaviour = np.asarray(t.sampled_BS[row])[valid], np.asarray(t.logprobs_BS[row])[valid]
    size = len(tokens)
    positions = jnp.arange(size, dtype=jnp.int32)[None, :, None]
    hidden, cache = tiny.forward(
        tiny.params(),
        jnp.asarray(tokens)[None],
        jnp.asarray(feature)[None],
        t.features_BILE[row : row + 1],
        positions,
        jnp.ones((1, size), bool),
    )
    assert cache is None
    logits = np.asarray(tiny.logits(tiny.params(), hidden))[0].astype(np.float64) / temperature
    logits -= logits.max(1, keepdims=True)
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    checked = 0
    for slot in range(1, size):
        if sampled[slot]:
            assert abs(logp[slot - 1, tokens[slot]] - behaviour[slot]) <= 1e-4
            checked += 1
    assert checked == sampled.sum() > 40


def test_image_features_matter(played):
    """The agreement would mean little if views did not reach the log-probabilities."""
    temperature, t = played
    blind = tiny.score(tiny.MODEL, tiny.params(), t, jnp.zeros_like(t.features_BILE), jnp.float32(temperature))
    gap = np.abs(np.asarray(blind.logprob_BS) - np.asarray(t.logprobs_BS)).max(1)
    assert (gap > 1e-2).all()


def test_gap_is_a_metric_of_every_update(played):
    temperature, t = played
    advantage = jnp.asarray([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    lied = t.replace(logprobs_BS=jnp.where(t.sampled_BS, t.logprobs_BS + 0.5, 0.0))
    for trajectory, gap in ((t, 0.0), (lied, 0.5)):
        _, metrics = tiny.policy_loss(trajectory, advantage, temperature)
        np.testing.assert_allclose(float(metrics["logprob_mismatch_mean"]), gap, atol=1e-4)
        np.testing.assert_allclose(float(metrics["logprob_mismatch_max"]), gap, atol=1e-4)
