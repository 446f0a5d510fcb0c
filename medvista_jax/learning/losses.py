"""Token log-probabilities and policy losses. The forward pass is the model's own, as in the rollout (promise 2).

A surrogate gives a gain for every sampled token, to be maximised; :func:`row_weights` says how the tokens of a batch
are averaged. Both are pure functions of ``[B, S]`` arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medvista_jax.core.layout import platform, shards
from medvista_jax.core.types import Array, Params, Trajectory
from medvista_jax.learning.kl import LOG_RATIO_BOUND
from medvista_jax.learning.placement import with_whole_head
from medvista_jax.models.vlm import Features, VisionLanguageModel
from medvista_jax.rollout.sampling import log_softmax_at
from medvista_jax.text.constraint import Constraint, within_set

SLOTS_AT_ONCE = 16
"""Of every row, the sampled slots whose logits exist at one time. With 16 rows that is a matrix product of 256 rows."""
TOKENS_AT_ONCE = 1024
"""The same on an accelerator for all rows of a device: reading the head should not take longer than its product."""


class TokenScores(NamedTuple):
    """float32 ``[B, S]`` each, 0 where the slot was not sampled."""

    logprob_BS: Array
    entropy_BS: Array


def score_tokens(
    model: VisionLanguageModel,
    params: Params,
    trajectory: Trajectory,
    features: Features,
    temperature: Array,
    constraint: Constraint | None = None,
    *,
    slots_at_once: int | None = None,
    entropy_gradient: bool = False,
) -> TokenScores:
    """Log-probability of every sampled id given what came before it, at the sampling temperature.

    The logits of slot ``s - 1``'s hidden state choose the id at slot ``s``; holes are bridged by taking the row's last
    valid slot before ``s``. Logits exist for ``slots_at_once`` sampled slots of every row at a time (by default
    :data:`SLOTS_AT_ONCE`), forward and backward: there is no array ``[B, S, V]``.

    Args:
      constraint: of the environment that the trajectory was sampled in: an id's probability is that among the tokens
        that it was drawn from.
      entropy_gradient: whether the entropy (of the distribution at temperature 1) is differentiated.
    """
    hidden_BSE, _ = model.forward(
        params,
        trajectory.tokens_BS,
        trajectory.feature_BS,
        features,
        trajectory.positions_BSZ,
        trajectory.valid_BS,
    )
    batch, slots = trajectory.tokens_BS.shape
    if slots_at_once is None:
        mine = batch // shards("batch", batch)
        slots_at_once = SLOTS_AT_ONCE if platform() == "cpu" else max(SLOTS_AT_ONCE, TOKENS_AT_ONCE // mine)
    params = with_whole_head(model, params)  # once, and not for every chunk
    slots_S = jnp.arange(slots)
    seen_BS = jax.lax.cummax(jnp.where(trajectory.valid_BS, slots_S[None, :], 0), axis=1)
    before_BS = jnp.pad(seen_BS[:, :-1], ((0, 0), (1, 0)))

    # Sampled slots first, row by row: chunks in which no row sampled anything are skipped.
    sampled_BS = trajectory.sampled_BS
    order_BS = jnp.argsort(~sampled_BS, axis=1, stable=True)
    take = lambda rows_BS: jnp.take_along_axis(rows_BS, order_BS, axis=1)  # noqa: E731
    previous_BSE = jnp.take_along_axis(hidden_BSE, take(before_BS)[..., None], axis=1)
    packed = (previous_BSE, take(trajectory.tokens_BS), take(trajectory.allowed_BS), take(sampled_BS))
    chunks = jax.tree.map(partial(_into_chunks, size=min(slots_at_once, slots)), packed)

    def score_chunk(operands: tuple[Array, ...]) -> TokenScores:
        previous_BNE, tokens_BN, allowed_BN, _ = operands
        logits_BNV = model.logits(params, previous_BNE)
        if constraint is not None:
            logits_BNV = within_set(constraint, allowed_BN, logits_BNV)
        of_BNV = logits_BNV if entropy_gradient else jax.lax.stop_gradient(logits_BNV)
        return TokenScores(log_softmax_at(logits_BNV, tokens_BN, temperature), entropy(of_BNV))

    def nothing(operands: tuple[Array, ...]) -> TokenScores:
        zero_BN = jnp.zeros(operands[1].shape, jnp.float32)
        return TokenScores(zero_BN, zero_BN)

    def body(_: None, operands: tuple[Array, ...]) -> tuple[None, TokenScores]:
        return None, jax.lax.cond(jnp.any(operands[3]), score_chunk, nothing, operands)

    # The backward pass computes a chunk's logits again instead of keeping those of all chunks.
    _, scores = jax.lax.scan(jax.checkpoint(body, prevent_cse=False), None, chunks)
    back_BS = jnp.argsort(order_BS, axis=1)
    merge = lambda x_CBN: jnp.take_along_axis(x_CBN.swapaxes(0, 1).reshape(len(sampled_BS), -1), back_BS, axis=1)  # noqa: E731
    return jax.tree.map(lambda x_CBN: jnp.where(sampled_BS, merge(x_CBN), 0.0), scores)


def _into_chunks(rows_BS: Array, size: int) -> Array:
    """``[B, S, …]`` as ``[C, B, size, …]``, padded with zeros at the end."""
    batch, slots = rows_BS.shape[:2]
    padded = jnp.pad(rows_BS, ((0, 0), (0, -slots % size)) + ((0, 0),) * (rows_BS.ndim - 2))
    return padded.reshape((batch, -1, size) + rows_BS.shape[2:]).swapaxes(0, 1)


def entropy(logits_NV: Array) -> Array:
    """-Σ p log p over the last axis, in nats."""
    log_p_NV = jax.nn.log_softmax(logits_NV, axis=-1)
    return -jnp.sum(jnp.exp(log_p_NV) * log_p_NV, axis=-1)


def mean_over(values_BS: Array, mask_BS: Array) -> Array:
    """Mean of the masked entries; 0 where there is none."""
    return jnp.sum(jnp.where(mask_BS, values_BS, 0.0)) / jnp.maximum(jnp.sum(mask_BS), 1)


class Gain(NamedTuple):
    """float32 ``[B, S]`` each: a token's surrogate, and 1 where a bound holds it."""

    gain_BS: Array
    clipped_BS: Array


def token_ratio(logprob_BS: Array, old_BS: Array) -> Array:
    """π / π_old of every token: float32 ``[B, S]``."""
    return jnp.exp(jnp.clip(logprob_BS - old_BS, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))


def sequence_ratio(logprob_BS: Array, old_BS: Array, mask_BS: Array) -> Array:
    """GSPO's ratio (arXiv 2507.18071, eq. 7): exp of the mean log ratio of a row's sampled tokens, float32 ``[B]``."""
    count_B = jnp.maximum(jnp.sum(mask_BS, axis=1), 1)
    mean_B = jnp.sum(jnp.where(mask_BS, logprob_BS - old_BS, 0.0), axis=1) / count_B
    return jnp.exp(jnp.clip(mean_B, -LOG_RATIO_BOUND, LOG_RATIO_BOUND))


def _like_tokens(advantage: Array) -> Array:
    """Advantages ``[B]`` as ``[B, 1]``; those of tokens as they are."""
    return advantage[:, None] if advantage.ndim == 1 else advantage


def _clipped(ratio_BS: Array, advantage: Array, clip_low: float, clip_high: float) -> Gain:
    advantage_BS = _like_tokens(advantage)
    free_BS = ratio_BS * advantage_BS
    bounded_BS = jnp.clip(ratio_BS, 1.0 - clip_low, 1.0 + clip_high) * advantage_BS
    return Gain(jnp.minimum(free_BS, bounded_BS), (bounded_BS < free_BS).astype(jnp.float32))


def clipped_surrogate(
    logprob_BS: Array,
    old_BS: Array,
    advantage: Array,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Gain:
    """PPO's clipped surrogate (arXiv 1707.06347) with separate bounds (clip-higher of DAPO, arXiv 2503.14476).

    Args:
      advantage: float32 ``[B]``, or ``[B, S]`` where tokens of a row differ.
      dual_clip: c > 1, and the gain of a bad token is never below c · A (arXiv 1912.09729, eq. 5).
    """
    gain_BS, clipped_BS = _clipped(token_ratio(logprob_BS, old_BS), advantage, clip_low, clip_high)
    if dual_clip is None:
        return Gain(gain_BS, clipped_BS)
    advantage_BS = _like_tokens(advantage)
    floor_BS = dual_clip * advantage_BS
    held_BS = (advantage_BS < 0) & (gain_BS < floor_BS)
    return Gain(jnp.where(held_BS, floor_BS, gain_BS), jnp.where(held_BS, 1.0, clipped_BS))


def gspo(logprob_BS: Array, old_BS: Array, advantage: Array, clip_low: float, clip_high: float, mask_BS: Array) -> Gain:
    """GSPO (arXiv 2507.18071, eq. 5): the clipped surrogate of a whole row, written at each of its sampled tokens.

    With ``normalisation="sequence"`` it is the paper's objective: rows weigh alike. Bounds are far narrower than PPO's
    (3e-4 and 4e-4 in the paper). Advantages of tokens are averaged over the row.
    """
    if advantage.ndim == 2:
        count_B = jnp.maximum(jnp.sum(mask_BS, axis=1), 1)
        advantage = jnp.sum(jnp.where(mask_BS, advantage, 0.0), axis=1) / count_B
    ratio_B1 = sequence_ratio(logprob_BS, old_BS, mask_BS)[:, None]
    return Gain(*(jnp.broadcast_to(x_B1, mask_BS.shape) for x_B1 in _clipped(ratio_B1, advantage, clip_low, clip_high)))


def gspo_token(
    logprob_BS: Array, old_BS: Array, advantage: Array, clip_low: float, clip_high: float, mask_BS: Array
) -> Gain:
    """GSPO-token (arXiv 2507.18071, eq. 13): the row's ratio in value, each token's own log-probability in gradient, so
    that tokens of a row may have different advantages."""
    row_B = jax.lax.stop_gradient(sequence_ratio(logprob_BS, old_BS, mask_BS))
    ratio_BS = row_B[:, None] * jnp.exp(logprob_BS - jax.lax.stop_gradient(logprob_BS))
    return _clipped(ratio_BS, advantage, clip_low, clip_high)


def cispo(logprob_BS: Array, old_BS: Array, advantage: Array, clip_low: float, clip_high: float) -> Gain:
    """CISPO (arXiv 2506.13585, eq. 4): REINFORCE weighted by the clipped ratio, which carries no gradient: no token's
    gradient is dropped. ``clip_low >= 1`` leaves out the lower bound, as the paper does."""
    ratio_BS = jax.lax.stop_gradient(token_ratio(logprob_BS, old_BS))
    weight_BS = jnp.clip(ratio_BS, 1.0 - clip_low, 1.0 + clip_high)
    clipped_BS = (weight_BS != ratio_BS).astype(jnp.float32)
    return Gain(weight_BS * _like_tokens(advantage) * logprob_BS, clipped_BS)


LOSSES = ("clip", "gspo", "gspo_token", "cispo")
"""Names that :func:`surrogate` knows."""


def surrogate(
    name: str,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Callable[[Array, Array, Array, Array], Gain]:
    """``(logprob_BS, old_BS, advantage, mask_BS) -> Gain`` with the bounds of a configuration."""
    bounds = {"clip_low": clip_low, "clip_high": clip_high}
    return {
        "clip": lambda new, old, advantage, mask: clipped_surrogate(new, old, advantage, **bounds, dual_clip=dual_clip),
        "gspo": lambda new, old, advantage, mask: gspo(new, old, advantage, **bounds, mask_BS=mask),
        "gspo_token": lambda new, old, advantage, mask: gspo_token(new, old, advantage, **bounds, mask_BS=mask),
        "cispo": lambda new, old, advantage, mask: cispo(new, old, advantage, **bounds),
    }[name]


def truncated_weight(old_BS: Array, behaviour_BS: Array, bound: float) -> Array:
    """Truncated importance sampling (TIS; Yao et al., "Your efficient RL framework secretly brings you off-policy RL
    training", 2025): min(π_old / π_behaviour, C) of every token, without gradient.

    Args:
      old_BS: log-probabilities by the training forward with the rollout's parameters.
      behaviour_BS: those that the rollout itself recorded, which differ where its weights or cache are quantised.
    """
    return jnp.minimum(jax.lax.stop_gradient(token_ratio(old_BS, behaviour_BS)), bound)


NORMALISATIONS = ("token", "sequence", "constant")
"""Names that :func:`row_weights` knows."""


def row_weights(name: str, mask_BS: Array, capacity: int) -> Array:
    """What a token's loss is multiplied by before the batch is summed: float32 ``[B]``.

    ``"token"``: mean over the tokens of the batch (DAPO, arXiv 2503.14476), so that long rows weigh more.
    ``"sequence"``: mean over a row's tokens, then over the rows that have any (GRPO, arXiv 2402.03300).
    ``"constant"``: sum over ``B · capacity`` (Dr. GRPO, arXiv 2503.20783): a token weighs the same in every batch.

    Args:
      mask_BS: bool, tokens that carry loss.
      capacity: the most that a row can sample.
    """
    count_B = jnp.sum(mask_BS, axis=1).astype(jnp.float32)
    if name == "token":
        return jnp.broadcast_to(1.0 / jnp.maximum(jnp.sum(count_B), 1.0), count_B.shape)
    if name == "sequence":
        return 1.0 / (jnp.maximum(count_B, 1.0) * jnp.maximum(jnp.sum(count_B > 0), 1))
    if name == "constant":
        return jnp.full(count_B.shape, 1.0 / (count_B.shape[0] * capacity))
    raise ValueError(f"normalisation {name!r} is unknown; there are {', '.join(NORMALISATIONS)}")
