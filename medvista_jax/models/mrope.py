"""Rotary positions of images on a grid (M-RoPE, arXiv 2409.12191): time, row, column.

Text counts up on all three axes. The embeddings of an image share the time at which it stands; their rows and columns
count from there. What follows an image begins behind its longer side.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array


def grid_table(height: int, width: int) -> np.ndarray:
    """What the embeddings of an image of ``height`` × ``width`` merged patches add, in row-major order.

    Returns:
      int32 ``[L, 3]``: row, column, and how far the positions move on behind the embedding (the last one moves them).
    """
    row_L, column_L = np.divmod(np.arange(height * width), width)
    advance_L = np.zeros(height * width, np.int64)
    advance_L[-1] = max(height, width)
    return np.stack([row_L, column_L, advance_L], axis=1).astype(np.int32)


def grid_positions(next_B: Array, valid_BT: Array, feature_BT: Array, table_BN3: Array) -> tuple[Array, Array]:
    """Positions of a chunk of text and image embeddings, in chunks or at once.

    Args:
      next_B: int32, where the chunk begins.
      valid_BT: bool.
      feature_BT: int32 index into ``table``, -1 for text.
      table_BN3: int32, :func:`grid_table` of every image that a row can refer to, one behind the other. The leading
        axis may be 1: the same table for all rows.

    Returns:
      int32 ``[B, T, 3]`` and where the next chunk begins, ``[B]``.
    """
    rows = jnp.broadcast_to(table_BN3, (feature_BT.shape[0],) + table_BN3.shape[1:])
    here_BT3 = jnp.take_along_axis(rows, jnp.maximum(feature_BT, 0)[..., None], axis=1)
    image_BT = feature_BT >= 0
    advance_BT = jnp.where(image_BT, here_BT3[..., 2], 1) * valid_BT.astype(jnp.int32)
    end_BT = jnp.cumsum(advance_BT, axis=1)
    base_BT = next_B[:, None] + end_BT - advance_BT
    offset_BT3 = jnp.concatenate([jnp.zeros_like(here_BT3[..., :1]), here_BT3[..., :2]], axis=-1)
    positions_BT3 = base_BT[..., None] + jnp.where(image_BT[..., None], offset_BT3, 0)
    return positions_BT3, next_B + end_BT[:, -1]
