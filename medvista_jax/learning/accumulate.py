"""Gradients over a batch of ragged trajectories: rows sorted by length, played in chunks, each at the shortest bucket.

A batch is as long as its longest row, and attention costs the square of it. Sorting rows by length and accumulating
over chunks keeps short rows short, bounds memory, and changes nothing in the result but the order of a sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, Trajectory
from medvista_jax.learning.state import FlatParams
from medvista_jax.rollout.record import pack

Metrics = dict[str, Array]
ChunkLoss = Callable[[FlatParams, Trajectory, Any], tuple[Array, tuple[Metrics, Metrics]]]
"""``(trainable, packed chunk, its extras) -> summed loss, (metrics to sum, metrics to take the maximum of)``."""


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Capacity of a compiled chunk: packed slots and image slots."""

    slots: int
    images: int


def accumulate(
    chunk_loss: ChunkLoss,
    trainable: FlatParams,
    trajectory: Trajectory,
    extras: Any,
    buckets: tuple[Bucket, ...],
    chunk: int,
) -> tuple[FlatParams, Metrics]:
    """Gradient of the summed chunk losses.

    Args:
      chunk_loss: sums over tokens; whoever wants a mean divides by a count that is known beforehand.
      extras: pytree of arrays with a leading axis ``B``; leaves ``[B, I, …]`` under the key ``"images"`` are cut to the
        bucket's image slots.
      buckets: ascending; the last one must hold everything.
      chunk: rows at a time, a divisor of ``B``.

    Returns:
      Gradients and metrics over the whole batch.

    Raises:
      ValueError: ``chunk`` does not divide the batch.
    """
    rows = trajectory.tokens_BS.shape[0]
    if rows % chunk:
        raise ValueError(f"a chunk of {chunk} rows does not divide a batch of {rows}; set chunk to a divisor")
    length_B = jnp.sum(trajectory.valid_BS, axis=1)
    order_B = jnp.argsort(length_B)
    split = lambda leaf: leaf[order_B].reshape((rows // chunk, chunk) + leaf.shape[1:])  # noqa: E731
    chunks = jax.tree.map(split, (trajectory, extras))

    def at(bucket: Bucket):
        def branch(operands):
            part, extra = operands
            packed = pack(part, bucket.slots)
            if "images" in extra:
                extra = {**extra, "images": jax.tree.map(lambda leaf: leaf[:, : bucket.images], extra["images"])}
            (_, metrics), gradients = jax.value_and_grad(chunk_loss, has_aux=True)(trainable, packed, extra)
            return gradients, metrics

        return branch

    slots_N = jnp.asarray([bucket.slots for bucket in buckets])
    images_N = jnp.asarray([bucket.images for bucket in buckets])

    def body(carry, operands):
        part = operands[0]
        fits_N = (slots_N >= jnp.max(jnp.sum(part.valid_BS, axis=1))) & (images_N >= jnp.max(part.views.count_B))
        gradients, (sums, maxima) = jax.lax.switch(jnp.argmax(fits_N), [at(bucket) for bucket in buckets], operands)
        total, sums_so_far, maxima_so_far = carry
        add = lambda a, b: jax.tree.map(jnp.add, a, b)  # noqa: E731
        return (
            add(total, gradients),
            add(sums_so_far, sums),
            jax.tree.map(jnp.maximum, maxima_so_far, maxima),
        ), None

    first = jax.tree.map(lambda leaf: leaf[0], chunks)
    shapes = jax.eval_shape(at(buckets[-1]), first)
    zeros = lambda tree: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)  # noqa: E731
    start = (zeros(shapes[0]), zeros(shapes[1][0]), zeros(shapes[1][1]))
    (gradients, sums, maxima), _ = jax.lax.scan(body, start, chunks)
    return gradients, {**sums, **maxima, "longest": jnp.max(length_B)}
