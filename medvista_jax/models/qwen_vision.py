"""What the vision towers of Qwen2.5-VL and Qwen3-VL share: patch order, rotary tables, attention.

Patches arrive in merge order: blocks of ``merge × merge`` patches in row-major order, and row-major inside a block, so
that neighbours that become one embedding stand side by side.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array
from medvista_jax.models.attention import attend
from medvista_jax.models.blocks import rotary_frequencies, rotate
from medvista_jax.models.vit import dense

Windows = tuple[tuple[int, int], ...]
"""Runs of patches that see one another: for each run, how many windows stand in a row and how many patches each has."""


def merge_order(height: int, width: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every patch of a grid in merge order: int ``[P]`` each.

    Raises:
      ValueError: a side is not a multiple of ``merge``.
    """
    if height % merge or width % merge:
        raise ValueError(f"a grid of {height} x {width} patches does not divide into blocks of {merge} x {merge}")
    index = np.arange(height * width).reshape(height // merge, merge, width // merge, merge)
    return np.divmod(index.transpose(0, 2, 1, 3).reshape(-1), width)


def axial_tables(row_P: np.ndarray, column_P: np.ndarray, head_dim: int, theta: float) -> tuple[Array, Array]:
    """Cosine and sine ``[1, P, 1, D/2]``: half of the frequencies turn by the row, the others by the column."""
    frequency_N = rotary_frequencies(head_dim // 2, theta)
    angle_PN = np.stack([row_P, column_P], axis=1).astype(np.float32)[..., None] * frequency_N
    angle_PN = angle_PN.reshape(len(row_P), -1)
    return jnp.cos(angle_PN)[None, :, None], jnp.sin(angle_PN)[None, :, None]


class VisionAttention(nn.Module):
    """Bidirectional attention with rotary positions over ``[N, P, E]``, one fused projection for q, k and v."""

    heads: int

    @nn.compact
    def __call__(self, x_NPE: Array, tables: tuple[Array, Array], windows: Windows | None = None) -> Array:
        count, patches, width = x_NPE.shape
        qkv_NPE = dense(3 * width, "qkv", x_NPE)
        q_NPHD, k_NPHD, v_NPHD = (
            part.reshape(count, patches, self.heads, width // self.heads) for part in jnp.split(qkv_NPE, 3, axis=-1)
        )
        q_NPHD, k_NPHD = rotate(q_NPHD, tables), rotate(k_NPHD, tables)
        parts, start = [], 0
        for number, size in windows or ((1, patches),):
            stop = start + number * size
            q_MPHD, k_MPHD, v_MPHD = (
                x[:, start:stop].reshape(count * number, size, *x.shape[2:]) for x in (q_NPHD, k_NPHD, v_NPHD)
            )
            mixed_MPE = attend(q_MPHD, k_MPHD.transpose(0, 2, 3, 1), v_MPHD.transpose(0, 2, 1, 3), None)
            parts.append(mixed_MPE.reshape(count, number * size, width))
            start = stop
        return dense(width, "proj", jnp.concatenate(parts, axis=1))
