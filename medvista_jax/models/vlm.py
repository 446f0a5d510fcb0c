"""The one protocol that rollout and learning know of a model. Letters: :mod:`medvista_jax.core.dimensions`."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.types import Array, Params

Features = Any
"""Pytree of image features; every leaf is ``[B, I, L, …]`` (or ``[N, L, …]`` fresh from the encoder)."""


@struct.dataclass
class KVCache:
    """Keys and values of every layer, written in place at one index for all rows.

    Attributes:
      keys, values: a leaf ``[B, K, S, D]`` a layer.
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
        """
        ...

    def logits(self, params: Params, hidden_NE: Array) -> Array:
        """float32 logits ``[…, V]``."""
        ...


def write_cache(cache_BKSD: Array, new_BKTD: Array, start: Array | int) -> Array:
    """The cache with slots ``start … start + T`` replaced."""
    zero = jnp.zeros((), jnp.int32)
    return jax.lax.dynamic_update_slice(
        cache_BKSD, new_BKTD.astype(cache_BKSD.dtype), (zero, zero, jnp.asarray(start, jnp.int32), zero)
    )


def chunk_mask(valid_BS: Array, length: int, start: Array | int) -> Array:
    """Who may be seen: bool ``[B, T, S]``, valid slots at or before the query's own."""
    slots_S = jnp.arange(valid_BS.shape[1])
    query_T = jnp.arange(length) + start
    return valid_BS[:, None, :] & (slots_S[None, None, :] <= query_T[None, :, None])


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
