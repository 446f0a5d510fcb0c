"""How the next token is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array


@struct.dataclass
class Sampling:
    """Sampling settings as arrays: another temperature is not another program.

    Attributes:
      temperature: float32 scalar; 0 is greedy.
      top_k: int32 scalar, only the k likeliest ids are drawn (and those as likely as the k-th); 0 for all.
      top_p: float32 scalar, only the fewest likeliest ids with this much probability in all are drawn; 1 for all.
    """

    temperature: Array
    top_k: Array
    top_p: Array

    @classmethod
    def at(cls, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Sampling:
        return cls(
            temperature=jnp.asarray(temperature, jnp.float32),
            top_k=jnp.asarray(top_k, jnp.int32),
            top_p=jnp.asarray(top_p, jnp.float32),
        )


def row_keys(key: Array, prompts: int, group: int) -> Array:
    """One key a row, from the prompt's place and the row's place in its group: ``[P * G]``.

    A row's randomness depends on nothing else, so that the same prompt at the same place and the same key give the
    same tokens in any batch; their log-probabilities agree to 1e-5, since sums run over slots in other places.
    """
    prompt_keys_P = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(prompts))
    fold = jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)), in_axes=(0, None))
    return fold(prompt_keys_P, jnp.arange(group)).reshape(-1)


def log_softmax_at(logits_BV: Array, token_B: Array, temperature: Array) -> Array:
    """Log-probability of ``token`` at the sampling temperature; at temperature 0 that of temperature 1.

    Rollout and loss both call this function (promise 2).
    """
    scale = jnp.where(temperature > 0, temperature, 1.0)
    scaled_BV = logits_BV / scale
    picked_B = jnp.take_along_axis(scaled_BV, token_B[..., None], axis=-1)[..., 0]
    return picked_B - jax.nn.logsumexp(scaled_BV, axis=-1)


def choose(logits_BV: Array, keys_B: Array, count_B: Array, sampling: Sampling) -> Array:
    """Next token of each row: int32 ``[B]``.

    Inverse-CDF sampling with one uniform number a row: the number of random bits does not grow with the vocabulary.
    The draw is keyed by the row's key and its own count of sampled tokens.
    """
    draw = lambda: _draw(logits_BV, keys_B, count_B, sampling)  # noqa: E731
    return jax.lax.cond(sampling.temperature > 0, draw, lambda: jnp.argmax(logits_BV, axis=-1).astype(jnp.int32))


def _draw(logits_BV: Array, keys_B: Array, count_B: Array, sampling: Sampling) -> Array:
    uniform = lambda key, count: jax.random.uniform(jax.random.fold_in(key, count))  # noqa: E731
    uniform_B = jax.vmap(uniform)(keys_B, count_B)
    scaled_BV = logits_BV / sampling.temperature
    weight_BV = jnp.exp(scaled_BV - jnp.max(scaled_BV, axis=-1, keepdims=True))
    narrow = (sampling.top_k > 0) | (sampling.top_p < 1.0)
    weight_BV = jax.lax.cond(narrow, lambda w_BV: likeliest(w_BV, sampling), lambda w_BV: w_BV, weight_BV)
    return pick(weight_BV, uniform_B)


def pick(weight_BV: Array, uniform_B: Array) -> Array:
    """The id at ``uniform`` of the cumulative weight: int32 ``[B]``; one without weight is never picked.

    First the block of ids, then the id in the block: over the whole vocabulary there is one sum and no prefix sum.
    """
    vocab = weight_BV.shape[-1]
    width = _block_width(vocab)
    blocks = -(-vocab // width)
    weight_BNC = jnp.pad(weight_BV, ((0, 0), (0, blocks * width - vocab))).reshape(-1, blocks, width)
    sum_BN = jnp.sum(weight_BNC, axis=-1)
    upto_BN = jnp.cumsum(sum_BN, axis=-1)
    target_B1 = uniform_B[:, None] * upto_BN[:, -1:]
    block_B1 = _first_beyond(sum_BN, upto_BN, target_B1)
    before_BN = jnp.pad(upto_BN[:, :-1], ((0, 0), (1, 0)))
    rest_B1 = target_B1 - jnp.take_along_axis(before_BN, block_B1, axis=1)
    weight_BC = jnp.take_along_axis(weight_BNC, block_B1[..., None], axis=1)[:, 0]
    within_B1 = _first_beyond(weight_BC, jnp.cumsum(weight_BC, axis=-1), rest_B1)
    return (block_B1 * width + within_B1)[:, 0].astype(jnp.int32)


def _first_beyond(weight_BN: Array, upto_BN: Array, target_B1: Array) -> Array:
    """The first place with weight whose sum is beyond the target, int32 ``[B, 1]``; the last with weight if none is.

    Prefix sums are not associative: one may rise where there is no weight, and the last may fall short of a target that
    was taken from sums in another order.
    """
    there_BN = weight_BN > 0
    beyond_BN = (upto_BN > target_B1) & there_BN
    first_B1 = jnp.argmax(beyond_BN, axis=-1, keepdims=True)
    last_B1 = weight_BN.shape[-1] - 1 - jnp.argmax(there_BN[:, ::-1], axis=-1, keepdims=True)
    return jnp.where(jnp.any(beyond_BN, axis=-1, keepdims=True), first_B1, last_B1)


def _block_width(vocab: int) -> int:
    """About the square root; a divisor where there is one near, or else all weights are copied to pad them."""
    root = max(1, math.isqrt(vocab))
    near = [width for width in range(max(1, root // 4), 4 * root) if vocab % width == 0]
    return min(near, key=lambda width: abs(width - root), default=root)


def likeliest(weight_BV: Array, sampling: Sampling) -> Array:
    """The weights of the ids that top-k and then top-p (arXiv 1904.09751) leave, 0 elsewhere; ties at the edge stay.

    Args:
      weight_BV: float32, not negative, not normalised.
    """
    k = jnp.where(sampling.top_k > 0, sampling.top_k, weight_BV.shape[-1])
    weight_BV = _keep(weight_BV, lambda above_BV: jnp.sum(above_BV, axis=-1) >= k)
    wanted_B = sampling.top_p * jnp.sum(weight_BV, axis=-1)
    enough = lambda above_BV: jnp.sum(jnp.where(above_BV, weight_BV, 0.0), axis=-1) >= wanted_B  # noqa: E731
    return jnp.where(sampling.top_p < 1.0, _keep(weight_BV, enough), weight_BV)


def _keep(weight_BV: Array, enough: Callable[[Array], Array]) -> Array:
    """The weights at or above the highest threshold that leaves enough of them.

    Floats that are not negative are ordered as their bits are: 31 halvings find the threshold itself, without a sort.
    """
    bits_BV = jax.lax.bitcast_convert_type(weight_BV, jnp.int32)

    def halve(i: Array, low_B: Array) -> Array:
        higher_B = low_B | (1 << (30 - i))
        return jnp.where(enough(bits_BV >= higher_B[:, None]), higher_B, low_B)

    lowest_B = jax.lax.fori_loop(0, 31, halve, jnp.zeros(weight_BV.shape[:-1], jnp.int32))
    return jnp.where(bits_BV >= lowest_B[:, None], weight_BV, 0.0)
