"""Sorting, packing and chunking change the work and not the gradient."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.core.types import Trajectory, View, Views
from medvista_jax.learning import grpo, sft
from medvista_jax.learning.accumulate import Bucket, accumulate, map_slots
from medvista_jax.learning.state import split
from tests import tiny

ROWS, SLOTS, IMAGES, WIDTH, WORDS = 12, 60, 3, 5, 11
LENGTHS = (1, 58, 3, 9, 60, 12, 2, 31, 5, 9, 24, 8)  # unsorted, and very different
COUNTS = (1, 3, 1, 3, 2, 1, 1, 2, 1, 1, 1, 2)  # row 3 is short and has every image


def ragged() -> tuple[Trajectory, dict]:
    """Rows with holes anywhere; features of images that the row does not have are no numbers."""
    rng = np.random.default_rng(0)
    valid, feature = np.zeros((ROWS, SLOTS), bool), np.full((ROWS, SLOTS), -1, np.int32)
    for row, (length, count) in enumerate(zip(LENGTHS, COUNTS, strict=True)):
        at = np.sort(rng.choice(SLOTS, length, replace=False))
        valid[row, at] = True
        shown = at[: min(count, length)]
        feature[row, shown] = np.arange(len(shown))
    images = rng.normal(size=(ROWS, IMAGES, WIDTH))
    images[np.arange(IMAGES)[None] >= np.array(COUNTS)[:, None]] = np.nan
    nothing = dict.fromkeys(("features_BILE", "turns", "turns_B", "calls_B", "answer_BN", "answer_length_B"))
    zero_BI = np.zeros((ROWS, IMAGES), np.int32)
    trajectory = Trajectory(
        tokens_BS=rng.integers(0, WORDS, (ROWS, SLOTS)).astype(np.int32),
        valid_BS=valid,
        sampled_BS=valid & (feature < 0) & (rng.random(valid.shape) < 0.7),
        feature_BS=feature,
        positions_BSZ=np.maximum(valid.cumsum(1) - 1, 0)[..., None].astype(np.int32),
        turn_BS=feature,
        logprobs_BS=rng.normal(size=valid.shape).astype(np.float32),
        allowed_BS=np.full(valid.shape, -1, np.int32),
        views=Views(View(*[zero_BI] * 7), np.array(COUNTS, np.int32)),
        truncated_B=np.zeros(ROWS, bool),
        **nothing,
    )
    extras = {"images": images.astype(np.float32), "weight_B": rng.normal(size=ROWS).astype(np.float32)}
    return jax.tree.map(jnp.asarray, (trajectory, extras))


def parameters():
    rng = np.random.default_rng(1)
    sizes = {"table": (WORDS, WIDTH), "mix": (WIDTH, WIDTH)}
    return {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in sizes.items()}


def loss_of_order(trainable, trajectory, extras):
    """Every sampled slot is scored from all that stands before it, in order: nothing may be lost, moved or doubled."""
    image_BSE = jnp.take_along_axis(extras["images"], jnp.maximum(trajectory.feature_BS, 0)[..., None], axis=1)
    x_BSE = jnp.where((trajectory.feature_BS >= 0)[..., None], image_BSE, trainable["table"][trajectory.tokens_BS])
    place_BS = 1.0 + 0.1 * trajectory.positions_BSZ[..., 0]
    x_BSE = jnp.where(trajectory.valid_BS[..., None], x_BSE * jnp.sin(place_BS)[..., None], 0.0)
    score_BS = jnp.sum(jnp.tanh(jnp.cumsum(x_BSE, axis=1) @ trainable["mix"]), axis=-1)
    gain_BS = jnp.where(trajectory.sampled_BS, score_BS * extras["weight_B"][:, None] + trajectory.logprobs_BS, 0.0)
    sums = {"loss": jnp.sum(gain_BS), "sampled": jnp.sum(trajectory.sampled_BS)}
    sums |= {"slots": jnp.float32(trajectory.tokens_BS.shape[1]), "images": jnp.float32(extras["images"].shape[1])}
    return jnp.sum(gain_BS), (sums, {"peak": jnp.max(jnp.abs(gain_BS))})


def assert_close(found, expected, relative=1e-5):
    """Leaf by leaf, relative to the largest entry of the leaf."""
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=relative, atol=relative * np.abs(b).max(), err_msg=str(path))


WHOLE = Bucket(SLOTS, IMAGES)
BUCKETS = {
    "whole": (WHOLE,),
    "one": (Bucket(12, 1), WHOLE),
    "many": (Bucket(4, 1), Bucket(9, 1), Bucket(9, 3), Bucket(31, 2), WHOLE),
    "images only": (Bucket(SLOTS, 1), WHOLE),
}
CASES = [("whole", 12), ("one", 3), ("many", 1), ("images only", 6)]


@pytest.fixture(scope="module")
def unchunked():
    """Rows as they come, all slots, one call."""
    trajectory, extras = ragged()
    with jax.numpy_rank_promotion("raise"):
        step = jax.jit(jax.value_and_grad(loss_of_order, has_aux=True))
        (_, (sums, maxima)), gradients = step(parameters(), trajectory, extras)
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves((sums, gradients)))
    return gradients, sums | maxima


@pytest.mark.parametrize(("name", "chunk"), CASES)
def test_equal_to_one_unsorted_unchunked_call(unchunked, name, chunk):
    gradients, metrics = unchunked
    run = jax.jit(functools.partial(accumulate, loss_of_order, buckets=BUCKETS[name], chunk=chunk))
    found, said = run(parameters(), *ragged())
    assert_close(found, gradients)
    assert_close(*({key: values[key] for key in ("loss", "sampled", "peak")} for values in (said, metrics)))
    assert int(said["longest"]) == max(LENGTHS)
    # Each chunk was cut to the first bucket that holds its longest row and its most images.
    chosen = list(choose(BUCKETS[name], chunk))
    assert float(said["slots"]) == sum(min(bucket.slots, SLOTS) for bucket in chosen)
    assert float(said["images"]) == sum(bucket.images for bucket in chosen)


def choose(buckets, chunk):
    order = np.argsort(LENGTHS, kind="stable")
    for at in range(0, ROWS, chunk):
        rows = order[at : at + chunk]
        longest, most = max(LENGTHS[r] for r in rows), max(COUNTS[r] for r in rows)
        yield next(b for b in buckets if b.slots >= longest and b.images >= most)


def test_the_cases_use_every_bucket_and_need_the_images():
    many = list(choose(BUCKETS["many"], 1))
    assert set(many) == set(BUCKETS["many"])
    assert Bucket(9, 3) in many  # where slots alone would have said Bucket(9, 1)
    assert len(set(choose(BUCKETS["images only"], 6))) == 1


def test_a_bucket_larger_than_the_trajectory_is_no_harm(unchunked):
    found, _ = jax.jit(functools.partial(accumulate, loss_of_order, buckets=(Bucket(500, 3),), chunk=4))(
        parameters(), *ragged()
    )
    assert_close(found, unchunked[0])


def test_where_no_bucket_holds_a_chunk_the_whole_trajectory_does(unchunked):
    """No row is cut to a bucket that is too small for it, in slots or in images."""
    buckets = (Bucket(4, 1), Bucket(31, 1), Bucket(9, 2))
    found, said = jax.jit(functools.partial(accumulate, loss_of_order, buckets=buckets, chunk=3))(
        parameters(), *ragged()
    )
    assert_close(found, unchunked[0])
    assert float(said["slots"]) == sum(bucket.slots for bucket in choose((*buckets, WHOLE), 3))


def test_maxima_may_be_negative():
    """And of integers."""

    def loss(trainable, trajectory, extras):
        length = jnp.sum(trajectory.valid_BS, axis=1)
        worst = {"float": jnp.max(-5.0 - length), "int": jnp.max(-5 - length)}
        return jnp.sum(trainable["mix"]), ({}, worst)

    _, said = jax.jit(functools.partial(accumulate, loss, buckets=(), chunk=4))(parameters(), *ragged())
    assert float(said["float"]) == int(said["int"]) == -5 - min(LENGTHS)


@pytest.mark.parametrize(("name", "chunk"), [("whole", 12), ("many", 1), ("images only", 3)])
def test_numbers_of_slots_come_back_to_where_they_were(name, chunk):
    """A sum over all that stands before a slot, of tokens, of an extra of the slots and of the images."""
    trajectory, extras = ragged()
    slots = {"bonus": trajectory.logprobs_BS}

    def score(part, extra):
        total_BS = part.tokens_BS + extra["slots"]["bonus"] + part.positions_BSZ[..., 0] * extra["weight_B"][:, None]
        return jnp.cumsum(jnp.where(part.valid_BS, total_BS, 0.0), axis=1)

    run = jax.jit(functools.partial(map_slots, score, buckets=BUCKETS[name], chunk=chunk))
    found = np.asarray(run(trajectory, {**extras, "slots": slots}))
    expected = np.where(trajectory.valid_BS, score(trajectory, {**extras, "slots": slots}), 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("chunk", [5, 24])
def test_a_chunk_that_does_not_divide_the_batch_is_refused(chunk):
    message = f"a chunk of {chunk} rows does not divide a batch of 12; set chunk to a divisor"
    with pytest.raises(ValueError, match=message):
        accumulate(loss_of_order, parameters(), *ragged(), (WHOLE,), chunk)


def real(which: str):
    """The loss of GRPO or SFT, bound to a batch of six rows of different length."""
    if which == "grpo":
        t = tiny.played(tiny.make_script(tiny.MIXED))
        moving, still = split(tiny.params(), ["^decoder"])
        tokens = jnp.sum(t.sampled_BS).astype(jnp.float32)
        loss = functools.partial(grpo.chunk_loss, tiny.MODEL, tiny.GRPO, still, jnp.float32(1.0), tokens)
        extras = tiny.loss_extras(t, jnp.array([1.0, -1.0, 0.5, -0.5, 2.0, -2.0]))
        return loss, moving, t.replace(features_BILE=None), extras
    question = tiny.make_question()
    t, pixels = tiny.enacted(tiny.environment(), question, tiny.make_script(tiny.LESSONS))
    moving, still = split(tiny.params(), ["^decoder", "^connector"])
    tokens = jnp.sum(t.sampled_BS).astype(jnp.float32)
    return functools.partial(sft.chunk_loss, tiny.MODEL, sft.SFTConfig(), still, tokens), moving, t, {"images": pixels}


@pytest.mark.parametrize("which", ["grpo", "sft"])
def test_the_losses_of_training(which):
    loss, trainable, t, extras = real(which)
    lengths = np.sort(np.asarray(t.valid_BS.sum(1)))
    short = Bucket(int(lengths[0]), 2)
    assert lengths[0] < lengths[-1] < t.tokens_BS.shape[1]
    buckets = (short, Bucket(t.tokens_BS.shape[1], t.views.view.blend.shape[1]))
    (_, (sums, maxima)), expected = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable, t, extras)
    found, metrics = jax.jit(functools.partial(accumulate, loss, buckets=buckets, chunk=1))(trainable, t, extras)
    assert_close(found, expected, 2e-5)  # hundreds of terms in float32, in another order
    assert set(metrics) == {*sums, *maxima, "longest"}
    for name, value in (sums | maxima).items():
        if name.startswith("logprob_mismatch"):  # differences of rounding errors
            assert float(metrics[name]) <= 1e-4 and float(value) <= 1e-4
        else:
            np.testing.assert_allclose(float(metrics[name]), float(value), rtol=1e-5, atol=1e-6, err_msg=name)
