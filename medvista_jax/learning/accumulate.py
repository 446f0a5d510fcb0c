"""Work over a batch of ragged trajectories: rows sorted by length, taken in chunks, each at the shortest bucket.

A batch is as long as its longest row, and attention costs the square of it. Sorting rows by length and going over
chunks keeps short rows short, bounds memory, and changes nothing in the result but the order of a sum.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medvista_jax.core.layout import along, shards
from medvista_jax.core.types import Array, Trajectory
from medvista_jax.learning.state import FlatParams
from medvista_jax.rollout.record import pack

Metrics = dict[str, Array]
Extras = dict[str, Any]
"""Arrays with a leading axis ``B`` that go with the rows. Leaves under ``"images"`` are ``[B, I, …]`` and are cut to
the bucket's image slots; leaves under ``"slots"`` are ``[B, S]`` and are packed as the row's own slots are."""
ChunkLoss = Callable[[FlatParams, Trajectory, Extras], tuple[Array, tuple[Metrics, Metrics]]]
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
    extras: Extras,
    buckets: tuple[Bucket, ...],
    chunk: int,
) -> tuple[FlatParams, Metrics]:
    """Gradient of the summed chunk losses, added up in float32 at least.

    Args:
      chunk_loss: sums over tokens; whoever wants a mean divides by a count that is known beforehand.
      buckets: ascending; the whole trajectory is one more where none of them holds it.
      chunk: rows at a time, a divisor of ``B``.

    Returns:
      Gradients and metrics over the whole batch.

    Raises:
      ValueError: ``chunk`` does not divide the batch.
    """
    buckets = _up_to_the_whole(buckets, trajectory)
    chunks, _ = _sorted_chunks(trajectory, extras, chunk, len(buckets) > 1)

    def at(bucket: Bucket):
        def branch(operands):
            packed, extra, _ = _cut(bucket, *operands)
            (_, metrics), gradients = jax.value_and_grad(chunk_loss, has_aux=True)(trainable, packed, extra)
            return gradients, metrics

        return branch

    def body(carry, operands):
        branches = [at(bucket) for bucket in buckets]
        gradients, (sums, maxima) = jax.lax.switch(_first_that_fits(buckets, operands[0]), branches, operands)
        total, sums_so_far, maxima_so_far = carry
        add = lambda a, b: jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)  # noqa: E731
        return (
            add(total, gradients),
            add(sums_so_far, sums),
            jax.tree.map(jnp.maximum, maxima_so_far, maxima),
        ), None

    shapes = jax.eval_shape(at(buckets[-1]), jax.tree.map(lambda leaf: leaf[0], chunks))
    zeros = lambda leaf: jnp.zeros(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))  # noqa: E731
    lowest = lambda leaf: jnp.full(leaf.shape, _lowest(leaf.dtype), leaf.dtype)  # noqa: E731
    start = (jax.tree.map(zeros, shapes[0]), jax.tree.map(zeros, shapes[1][0]), jax.tree.map(lowest, shapes[1][1]))
    (gradients, sums, maxima), _ = jax.lax.scan(body, start, chunks)
    return gradients, {**sums, **maxima, "longest": jnp.max(jnp.sum(trajectory.valid_BS, axis=1))}


def map_slots(
    score: Callable[[Trajectory, Extras], Array],
    trajectory: Trajectory,
    extras: Extras,
    buckets: tuple[Bucket, ...],
    chunk: int,
) -> Array:
    """A number for every slot, computed chunk by chunk as in :func:`accumulate`, without gradients.

    Args:
      score: ``(packed chunk, its extras) -> [chunk, slots]``.

    Returns:
      float32 ``[B, S]`` at the slots of the trajectory as it came; 0 at slots that are no part of a row.

    Raises:
      ValueError: ``chunk`` does not divide the batch.
    """
    buckets = _up_to_the_whole(buckets, trajectory)
    chunks, order_DN = _sorted_chunks(trajectory, extras, chunk, len(buckets) > 1)
    slots = trajectory.tokens_BS.shape[1]

    def at(bucket: Bucket):
        def branch(operands):
            packed, extra, slot_BN = _cut(bucket, *operands)
            values_BN = jnp.where(packed.valid_BS, score(packed, extra), 0.0)
            rows_B1 = jnp.arange(chunk)[:, None]
            return jnp.zeros((chunk, slots), jnp.float32).at[rows_B1, slot_BN].set(values_BN)

        return branch

    def body(_, operands):
        branches = [at(bucket) for bucket in buckets]
        return None, jax.lax.switch(_first_that_fits(buckets, operands[0]), branches, operands)

    _, values_CBS = jax.lax.scan(body, None, chunks)
    parts = order_DN.shape[0]
    values_DNS = values_CBS.reshape(-1, parts, chunk // parts, slots).swapaxes(0, 1).reshape(parts, -1, slots)
    return jnp.take_along_axis(values_DNS, jnp.argsort(order_DN, axis=1)[..., None], axis=1).reshape(-1, slots)


def _lowest(dtype: Any) -> Any:
    """What no maximum is below."""
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _up_to_the_whole(buckets: tuple[Bucket, ...], trajectory: Trajectory) -> tuple[Bucket, ...]:
    """The buckets up to the first that holds everything; the whole trajectory is the last where none does."""
    whole = Bucket(trajectory.tokens_BS.shape[1], trajectory.views.view.blend.shape[1])
    for index, bucket in enumerate(buckets):
        if bucket.slots >= whole.slots and bucket.images >= whole.images:
            return buckets[: index + 1]
    return (*buckets, whole)


def _sorted_chunks(
    trajectory: Trajectory, extras: Extras, chunk: int, by_length: bool
) -> tuple[tuple[Trajectory, Extras], Array]:
    """Leaves ``[B / chunk, chunk, …]``, and which row of its part each one was: int32 ``[D, B / D]``.

    On a mesh every device sorts the rows that it has, D parts of the batch, and gives its share to each chunk: no row
    moves to another device.

    Args:
      by_length: sort the rows; where all chunks take one bucket there is nothing to gain from it.
    """
    rows = trajectory.tokens_BS.shape[0]
    if rows % chunk:
        raise ValueError(f"a chunk of {chunk} rows does not divide a batch of {rows}; set chunk to a divisor")
    parts = shards("batch", chunk)  # divides the chunk, and so the batch
    length_DN = jnp.sum(trajectory.valid_BS, axis=1).reshape(parts, -1)
    order_DN = jnp.argsort(length_DN if by_length else jnp.zeros_like(length_DN), axis=1, stable=True)

    def split(leaf: Array) -> Array:
        leaf_DN = along(leaf.reshape((parts, rows // parts) + leaf.shape[1:]), "batch")
        if by_length:
            index_DN = order_DN.reshape(order_DN.shape + (1,) * (leaf.ndim - 1))
            leaf_DN = jnp.take_along_axis(leaf_DN, index_DN, axis=1)
        leaf_DCN = leaf_DN.reshape((parts, rows // chunk, chunk // parts) + leaf.shape[1:])
        return along(leaf_DCN.swapaxes(0, 1).reshape((rows // chunk, chunk) + leaf.shape[1:]), None, "batch")

    return jax.tree.map(split, (trajectory, extras)), order_DN


def _first_that_fits(buckets: tuple[Bucket, ...], part: Trajectory) -> Array:
    """int32 scalar. The last one holds everything."""
    slots_N = jnp.asarray([bucket.slots for bucket in buckets])
    images_N = jnp.asarray([bucket.images for bucket in buckets])
    fits_N = (slots_N >= jnp.max(jnp.sum(part.valid_BS, axis=1))) & (images_N >= jnp.max(part.views.count_B))
    return jnp.argmax(fits_N)


def _cut(bucket: Bucket, part: Trajectory, extra: Extras) -> tuple[Trajectory, Extras, Array]:
    """A chunk and its extras in a bucket, and which slot each packed slot was: int32 ``[chunk, N]``."""
    packed = pack(part, bucket.slots)
    slots_BS = jnp.broadcast_to(jnp.arange(part.tokens_BS.shape[1], dtype=jnp.int32)[None], part.tokens_BS.shape)
    slot_BN = pack(part.replace(tokens_BS=slots_BS), bucket.slots).tokens_BS
    extra = dict(extra)
    if "images" in extra:
        extra["images"] = jax.tree.map(lambda leaf: leaf[:, : bucket.images], extra["images"])
    if "slots" in extra:
        extra["slots"] = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, slot_BN, axis=1), extra["slots"])
    return packed, extra, slot_BN
