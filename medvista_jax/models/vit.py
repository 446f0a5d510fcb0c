"""What the vision transformers of several families share: norms, patches, learned positions for another grid."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.layout import constrain
from medvista_jax.core.types import Array


def layer_norm(epsilon: float, name: str, x_NPE: Array) -> Array:
    """LayerNorm inside a compact module, in float32, of the dtype of ``x``.

    The variance is that of the centred values: in a few channels and patches of real checkpoints the mean is far from
    0, and the faster formula would cancel.
    """
    return nn.LayerNorm(epsilon, use_fast_variance=False, name=name, dtype=x_NPE.dtype)(x_NPE)


def dense(width: int, name: str, x_NPE: Array, use_bias: bool = True) -> Array:
    """A Dense module inside a compact module, of the dtype of ``x``.

    On a mesh every device takes some of the images through the whole tower: a layer's kernel, a few megabytes, is
    gathered where the activations of all images would have to be exchanged.
    """
    return constrain(nn.Dense(width, use_bias, x_NPE.dtype, name=name)(x_NPE), "rows")


def cut_patches(pixels_NChw: Array, patch: tuple[int, int]) -> Array:
    """Row-major patches ``[N, P, C · patch]``, within each: channel, row, column."""
    count, channels, height, width = pixels_NChw.shape
    rows, columns = height // patch[0], width // patch[1]
    x = pixels_NChw[:, :, : rows * patch[0], : columns * patch[1]]
    x = x.reshape(count, channels, rows, patch[0], columns, patch[1])
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, -1)


def cubic_weights(source: int, target: int) -> np.ndarray:
    """Cubic convolution (Keys 1981, doi 10.1109/TASSP.1981.1163711, a = -3/4) along an axis: ``[target, source]``.

    float32. Centres of pixels at halves, the border repeated, no smoothing when the target is smaller: what torch's
    ``interpolate`` calls bicubic.
    """
    a = -0.75
    at = (np.arange(target) + 0.5) * (source / target) - 0.5
    low = np.floor(at).astype(np.int64)
    part = at - low
    near = lambda x: (a + 2) * x**3 - (a + 3) * x**2 + 1  # noqa: E731
    far = lambda x: a * (x**3 - 5 * x**2 + 8 * x - 4)  # noqa: E731
    weight = np.stack([far(part + 1), near(part), near(1 - part), far(2 - part)], axis=1)
    index = np.clip(low[:, None] + np.arange(-1, 3)[None], 0, source - 1)
    table = np.zeros((target, source))
    np.add.at(table, (np.arange(target)[:, None], index), weight)
    return table.astype(np.float32)


def resample_positions(table_1PE: Array, rows: int, columns: int) -> Array:
    """Learned positions of a square grid, CLS first, for a grid of ``rows × columns``: ``[1, 1 + rows · columns, E]``.

    Computed in float32 and given in the table's own dtype, as transformers does it.
    """
    side, width = math.isqrt(table_1PE.shape[1] - 1), table_1PE.shape[2]
    square = table_1PE[0, 1:].reshape(side, side, width).astype(jnp.float32)
    grid = jnp.einsum("yi,ixe->yxe", cubic_weights(side, rows), square, precision="highest")
    grid = jnp.einsum("xj,yje->yxe", cubic_weights(side, columns), grid, precision="highest")
    grid_1PE = grid.reshape(1, rows * columns, width).astype(table_1PE.dtype)
    return jnp.concatenate([table_1PE[:, :1], grid_1PE], axis=1)
