"""The one protocol that rollout and learning know of a model. Letters: :mod:`medvista_jax.core.dimensions`."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.layout import constrain, constrain_tree
from medvista_jax.core.types import Array, Params

Features = Any
"""Pytree of image features; every leaf is ``[B, I, L, …]`` (or ``[N, L, …]`` fresh from the encoder)."""


@struct.dataclass
class KVCache:
    """Keys and values of every layer, written in place at one index for all rows or at one a row.

    Attributes:
      keys: a leaf ``[B, K, D, S]`` a layer, as the product with the queries reads it: a third of the time on a CPU.
      values: a leaf ``[B, K, S, D]`` a layer.
      valid_BS: bool, slots that hold a token of the row's sequence.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    valid_BS: Array


class VisionLanguageModel(Protocol):
    """Pure functions over a parameter pytree. Instances are hashable: they go to ``jit`` as static arguments."""

    vocab_size: int
    tokens_per_image: int  # L
    image_size: tuple[int, int]  # h, w of every view
    position_axes: int  # Z
    dtype: str  # of activations and cache

    def init(self, key: Array) -> Params:
        """Fresh float32 parameters as nested dicts."""
        ...

    def encode_images(self, params: Params, pixels_NhwC: Array) -> Features:
        """uint8 views to features, leaves ``[N, L, …]``."""
        ...

    def init_cache(self, batch: int, slots: int, dtype: Any = None) -> KVCache:
        """An empty cache, of the model's own dtype if none is named."""
        ...

    def positions(self, next_B: Array, valid_BT: Array, feature_BT: Array) -> tuple[Array, Array]:
        """Rotary positions ``[B, T, Z]`` of a chunk that begins at ``next_B``, and where the next chunk begins."""
        ...

    def forward(
        self,
        params: Params,
        tokens_BT: Array,
        feature_BT: Array,
        features: Features,
        positions_BTZ: Array,
        valid_BT: Array,
        cache: KVCache | None = None,
        start: Array | int = 0,
    ) -> tuple[Array, KVCache | None]:
        """Hidden states ``[B, T, E]`` after the last norm.

        Args:
          tokens_BT: int32; slots with ``feature_BT >= 0`` take ``features[b, i, l]`` with ``feature = i * L + l``
            instead of the token's embedding.
          features: leaves ``[B, I, L, …]``.
          positions_BTZ, valid_BT: rotary positions and which slots belong to the sequence.
          cache: keys and values so far; the chunk is written at slots ``start … start + T``. Without a cache the
            chunk attends to itself only: the training forward.
          start: int32, one for all rows, or ``[B]``.
        """
        ...

    def logits(self, params: Params, hidden_NE: Array) -> Array:
        """float32 logits ``[…, V]``."""
        ...


def spread_cache(cache: KVCache) -> KVCache:
    """The cache laid out on the mesh in context, by rows and KV heads."""
    return KVCache(
        keys=constrain_tree(cache.keys, "batch", "heads"),
        values=constrain_tree(cache.values, "batch", "heads"),
        valid_BS=constrain(cache.valid_BS, "batch"),
    )


def spread_features(features: Features) -> Features:
    """Image features, leaves ``[…, L, E]``, laid out by their first axis and by width."""
    return jax.tree.map(lambda leaf: constrain(leaf, "batch", *(None,) * (leaf.ndim - 2), "width"), features)


def grow_cache(cache: KVCache, slots: int) -> KVCache:
    """The cache with room for ``slots`` slots; those that are new are not valid."""
    spare = slots - cache.valid_BS.shape[1]
    grow = lambda x, axis: jnp.pad(x, [(0, spare if at == axis else 0) for at in range(x.ndim)])  # noqa: E731
    return KVCache(
        keys=tuple(grow(leaf, 3) for leaf in cache.keys),
        values=tuple(grow(leaf, 2) for leaf in cache.values),
        valid_BS=grow(cache.valid_BS, 1),
    )


def cut_cache(cache: KVCache, slots: int) -> KVCache:
    """The first ``slots`` slots."""
    return KVCache(
        keys=tuple(leaf[..., :slots] for leaf in cache.keys),
        values=tuple(leaf[:, :, :slots] for leaf in cache.values),
        valid_BS=cache.valid_BS[:, :slots],
    )


def paste_cache(cache: KVCache, part: KVCache) -> KVCache:
    """The cache with its first slots replaced by those of ``part``."""
    pasted = lambda axis: lambda old, new: write_slots(old, new, 0, axis)  # noqa: E731
    return KVCache(
        keys=tuple(map(pasted(3), cache.keys, part.keys)),
        values=tuple(map(pasted(2), cache.values, part.values)),
        valid_BS=write_slots(cache.valid_BS, part.valid_BS, 0),
    )


def write_cache(cache_BS: Array, new_BT: Array, start: Array | int, axis: int = 1) -> Array:
    """:func:`write_slots` as it is fast inside a decoding loop.

    On a CPU, one slice for all rows is fused into what reads the cache, twice, and each of the two copies all of it.
    A slice a row stays a write in place: three to five times faster.
    """
    start = jnp.asarray(start, jnp.int32)
    apart = lambda old, new: write_slots(old, new, jnp.broadcast_to(start, old.shape[:1]), axis)  # noqa: E731
    together = lambda old, new: write_slots(old, new, start, axis)  # noqa: E731
    return jax.lax.platform_dependent(cache_BS, new_BT, cpu=apart, default=together)


def write_slots(old_BS: Array, new_BT: Array, start: Array | int, axis: int = 1) -> Array:
    """``old`` with ``start … start + T`` along ``axis`` replaced by ``new``.

    Args:
      start: int32 scalar, or ``[B]`` for another place in every row of the first axis.
    """
    new_BT, start = new_BT.astype(old_BS.dtype), jnp.asarray(start, jnp.int32)
    if start.ndim:
        put = lambda old, new, at: jax.lax.dynamic_update_slice_in_dim(old, new, at, axis - 1)  # noqa: E731
        return jax.vmap(put)(old_BS, new_BT, start)
    return jax.lax.dynamic_update_slice_in_dim(old_BS, new_BT, start, axis)


def chunk_mask(valid_BS: Array, length: int, start: Array | int) -> Array:
    """Who may be seen: bool ``[B, T, S]``, valid slots at or before the query's own.

    Args:
      start: slot of the first query, one for all rows or ``[B]``.
    """
    slots_S = jnp.arange(valid_BS.shape[1])
    query_BT = jnp.arange(length)[None, :] + jnp.asarray(start, jnp.int32).reshape(-1, 1)
    return valid_BS[:, None, :] & (slots_S[None, None, :] <= query_BT[:, :, None])


def sequential_positions(next_B: Array, valid_BT: Array) -> tuple[Array, Array]:
    """:meth:`VisionLanguageModel.positions` where every token and every embedding takes one position."""
    count_BT = jnp.cumsum(valid_BT.astype(jnp.int32), axis=1)
    positions_BT = next_B[:, None] + jnp.maximum(count_BT - 1, 0)
    return positions_BT[..., None], next_B + count_BT[:, -1]


def place_features(features_BILE: Array, feature_BT: Array) -> Array:
    """The image embedding that each slot stands for: ``[B, T, E]``, 0 at text."""
    flat_BNE = features_BILE.reshape(features_BILE.shape[0], -1, features_BILE.shape[-1])
    image_BTE = jnp.take_along_axis(flat_BNE, jnp.maximum(feature_BT, 0)[..., None], axis=1)
    return jnp.where((feature_BT >= 0)[..., None], image_BTE, jnp.zeros((), image_BTE.dtype))


def mix_embeddings(x_BTE: Array, features_BILE: Array, feature_BT: Array) -> Array:
    """Text embeddings with image embeddings in their places."""
    image_BTE = place_features(features_BILE, feature_BT)
    return jnp.where((feature_BT >= 0)[..., None], image_BTE.astype(x_BTE.dtype), x_BTE)


def last_valid(hidden_BTE: Array, valid_BT: Array) -> Array:
    """Hidden state of each row's last valid slot (of the first slot where there is none)."""
    slots_T = jnp.arange(valid_BT.shape[1])
    last_B = jnp.max(jnp.where(valid_BT, slots_T[None, :], 0), axis=1)
    return jnp.take_along_axis(hidden_BTE, last_B[:, None, None], axis=1)[:, 0]
