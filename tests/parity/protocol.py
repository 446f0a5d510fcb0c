"""What every family must pass, whatever it looks like inside."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from medvista_jax.learning.grpo import grpo_step
from medvista_jax.learning.state import start
from medvista_jax.models.hub_model import HubModel
from medvista_jax.models.inputs import hub_logits
from medvista_jax.rollout.generate import greedy
from medvista_jax.rollout.sampling import Sampling
from tests import tiny
from tests.parity.reference import TOLERANCE, Pair, gap, our_batch, our_logits, tensors, their_logits

Inputs = dict[str, np.ndarray]


def check_logits(pair: Pair, inputs: Inputs, tolerance: float = TOLERANCE) -> None:
    theirs = their_logits(pair, inputs)
    assert np.abs(theirs[inputs["attention_mask"].astype(bool)]).max() > 0.5  # there is something to compare
    assert gap(our_logits(pair, inputs), theirs, inputs["attention_mask"]) <= tolerance


def check_cached_decode(pair: Pair, inputs: Inputs, chunks: tuple[int, ...] = (7, 1, 1, 3)) -> None:
    """The sequence in pieces through the cache, piece by piece and then token by token, against it in one go."""
    batch = our_batch(pair, inputs)
    rows, length = batch.tokens_BT.shape
    whole = np.asarray(hub_logits(pair.model, pair.params, batch))
    forward = jax.jit(type(pair.model).forward, static_argnums=0)
    cache, at, parts = pair.model.init_cache(rows, length), 0, []
    sizes = [*chunks, *[1] * (length - sum(chunks))]
    for size in sizes:
        cut = slice(at, at + size)
        arguments = (x[:, cut] for x in (batch.tokens_BT, batch.feature_BT))
        hidden_BTE, cache = forward(
            pair.model,
            pair.params,
            *arguments,
            batch.features,
            batch.positions_BTZ[:, cut],
            batch.valid_BT[:, cut],
            cache,
            at,
        )
        parts.append(np.asarray(pair.model.logits(pair.params, hidden_BTE)))
        at += size
    assert gap(np.concatenate(parts, axis=1), whole, inputs["attention_mask"]) <= TOLERANCE
    assert gap(np.concatenate(parts, axis=1), their_logits(pair, inputs), inputs["attention_mask"]) <= TOLERANCE


def check_greedy(pair: Pair, inputs: Inputs, steps: int = 32) -> None:
    """32 tokens equal transformers' ``generate``; inputs must be padded on the left, as it wants them."""
    ours, _ = greedy(pair.model, pair.params, our_batch(pair, inputs), steps)
    with torch.no_grad():
        theirs = pair.theirs.generate(
            **tensors(pair, inputs), do_sample=False, min_new_tokens=steps, max_new_tokens=steps, pad_token_id=0
        )
    np.testing.assert_array_equal(np.asarray(ours), theirs[:, inputs["input_ids"].shape[1] :].numpy())


def check_gradients(pair: Pair, inputs: Inputs) -> None:
    """Mean next-token loss and the norm of its gradient, of all parameters and each part, within 1e-3 of torch's."""
    for name, (ours, theirs) in losses_and_norms(pair, inputs).items():
        assert theirs > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, err_msg=name)


def losses_and_norms(pair: Pair, inputs: Inputs) -> dict[str, tuple[float, float]]:
    """Loss of the batch, norm of its gradient, and that of each part: ours and torch's."""
    mask = inputs["attention_mask"].astype(bool)
    counted = mask[:, 1:] & mask[:, :-1] & (inputs["input_ids"][:, 1:] != pair.model.config.image_token)
    target = jnp.asarray(np.where(counted, inputs["input_ids"][:, 1:], 0))

    def loss(params: Any) -> jax.Array:
        logits = hub_logits(pair.model, params, our_batch(pair, inputs, params))[:, :-1]
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(counted, picked, 0.0)) / counted.sum()

    ours, gradients = jax.value_and_grad(loss)(pair.params)
    pair.theirs.zero_grad()
    logits = pair.theirs(**tensors(pair, inputs)).logits[:, :-1]
    picked = torch.log_softmax(logits, -1).gather(-1, torch.tensor(np.asarray(target)).long()[..., None])[..., 0]
    theirs = -(picked * torch.tensor(counted)).sum() / counted.sum()
    theirs.backward()
    squares = {
        part: [sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(gradients[part])), 0.0]
        for part in ("vision", "connector", "decoder")
    }
    for name, parameter in pair.theirs.named_parameters():
        part = "vision" if "visual" in name or "vision_tower" in name else "decoder"
        if "merger" in name or "projector" in name:
            part = "connector"
        if parameter.grad is not None:
            squares[part][1] += float(parameter.grad.double().pow(2).sum())
    squares["all"] = [sum(pair) for pair in zip(*squares.values(), strict=True)]
    norms = {f"gradient of {part}": (one**0.5, other**0.5) for part, (one, other) in squares.items()}
    return {"loss": (float(ours), float(theirs.detach()))} | norms


def check_bfloat16(pair: Pair, inputs: Inputs) -> None:
    """Our bfloat16 logits are not farther from float32 than transformers' own bfloat16 logits are.

    Both round after every operation but in different orders; 1.5 leaves room for chance in the largest of some
    thousand rounding errors.
    """
    ours, theirs = bfloat16_errors(pair, inputs)
    assert 0 < ours[0] <= 1.5 * theirs[0]
    assert ours[1] <= 1.5 * theirs[1]


def bfloat16_errors(pair: Pair, inputs: Inputs) -> tuple[tuple[float, float], tuple[float, float]]:
    """Root mean square and largest error of bfloat16 logits against transformers' float32: ours, and transformers'."""
    there = inputs["attention_mask"].astype(bool)
    exact = their_logits(pair, inputs)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), pair.params)
    ours = our_logits(pair, inputs, half, model=dataclasses.replace(pair.model, dtype="bfloat16"))
    rounded = dataclasses.replace(pair, theirs=copy.deepcopy(pair.theirs).to(torch.bfloat16))
    theirs = their_logits(rounded, inputs)
    errors = ((np.abs(x - exact)[there]) for x in (ours, theirs))
    return tuple((float(np.sqrt(np.mean(np.square(error)))), float(error.max())) for error in errors)


def check_shift_matters(pair: Pair, inputs: Inputs) -> None:
    """One token moved by one position, all others as they were, moves the logits."""
    batch = our_batch(pair, inputs)
    usual = np.asarray(hub_logits(pair.model, pair.params, batch))
    shifted = batch._replace(positions_BTZ=batch.positions_BTZ.at[0, 1].add(1))
    moved = np.asarray(hub_logits(pair.model, pair.params, shifted))
    assert gap(moved, usual, inputs["attention_mask"]) > 100 * TOLERANCE


def check_views(pair: Pair, inputs: Inputs, views: np.ndarray) -> None:
    """Features of uint8 views as the rollout makes them equal those of the hub's pixel values for the same pixels.

    Args:
      inputs: what the hub's image processor makes of the views: ``pixel_values`` and, for Qwen, ``image_grid_thw``.
    """
    model = pair.model.with_image_size(*views.shape[1:3])
    ours = model.encode_images(pair.params, jnp.asarray(views))
    flat, _ = model.encode_inputs(pair.params, inputs["pixel_values"], inputs.get("image_grid_thw"))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(flat), strict=True):
        one = np.asarray(one).reshape(np.asarray(other).shape)
        np.testing.assert_allclose(one, np.asarray(other), atol=TOLERANCE * np.abs(one).max())


def check_rollout_and_update(model: HubModel, params: Any) -> None:
    """The multi-turn loop and a GRPO step run on it: promises 1 and 2, and the parameters move.

    The model must have the vocabulary, view size and tokens an image of ``tests.tiny``.
    """
    assert (model.vocab_size, model.tokens_per_image) == (tiny.VOCAB, tiny.MODEL.tokens_per_image)
    question, script = tiny.make_question(), tiny.make_script(tiny.MIXED)
    t = tiny.play(model, params, tiny.environment(), question, jax.random.key(1), 2, Sampling.at(1.0), script)
    assert int(t.sampled_BS.sum()) > 200 and np.asarray(t.views.count_B).max() == 3
    scores = tiny.score(model, params, t, t.features_BILE, jnp.ones(()))
    assert float(jnp.abs(scores.logprob_BS - t.logprobs_BS).max()) <= 1e-4
    blind = jax.tree.map(jnp.zeros_like, t.features_BILE)
    assert float(jnp.abs(tiny.score(model, params, t, blind, jnp.ones(())).logprob_BS - t.logprobs_BS).max()) > 1e-2
    state = start(params, ("^decoder",), tiny.optimizer(), jax.random.key(0))
    before = {name: np.asarray(leaf) for name, leaf in state.trainable.items()}
    key, sampling = tiny.make_key(), Sampling.at(1.0)
    state, metrics = grpo_step(model, tiny.optimizer(), tiny.GRPO, tiny.environment(), state, question, key, sampling)
    assert 0 < float(metrics["grad_norm"]) < np.inf and float(metrics["logprob_mismatch_max"]) <= 1e-4
    still = [name for name, leaf in state.trainable.items() if np.array_equal(before[name], np.asarray(leaf))]
    assert still == []
