"""Where the pixels of a view lie: affine maps from the view's unit square to pixels of an original.

(u, v) run from 0 to 1, right and down, over the view; (x, y) are pixels of an original, pixel (0, 0) covering
0 ≤ x, y < 1. A map is ``[2, 3]``: ``x = m00 u + m01 v + m02``, ``y = m10 u + m11 v + m12``. A tool that looks at a part
of a view, turned or mirrored, composes its own map from new to old (u, v) with the view's.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.types import Array, Blend, ImageBank, View
from medvista_jax.tools.base import EFFECT_VALUES, Originals


def whole(size_2: Array) -> Array:
    """The map ``[…, 2, 3]`` of a view of a whole image of ``size_2`` rows and columns, ``[…, 2]``."""
    size_2 = jnp.asarray(size_2, jnp.float32)
    zero = jnp.zeros(size_2.shape[:-1], jnp.float32)
    right = jnp.stack([size_2[..., 1], zero, zero], axis=-1)
    down = jnp.stack([zero, size_2[..., 0], zero], axis=-1)
    return jnp.stack([right, down], axis=-2)


def whole_views(bank: ImageBank, slots: int, depth: int) -> View:
    """Recipes of the originals at their default windows, leaves ``[P, slots, …]``; spare slots repeat the last.

    Args:
      depth: effects that can be stacked on a view, E.
    """
    prompts, originals = bank.window_PO2.shape[:2]
    source_I = jnp.minimum(jnp.arange(slots, dtype=jnp.int32), originals - 1)
    panels = lambda x_PI: jnp.stack([x_PI, x_PI], axis=2)  # noqa: E731
    lead = (prompts, slots)
    return View(
        source=panels(jnp.tile(source_I[None], (prompts, 1))),
        affine=panels(whole(bank.size_PO2[:, source_I])),
        window=panels(bank.window_PO2[:, source_I]),
        blend=jnp.full(lead, int(Blend.ONE), jnp.int32),
        seam=jnp.zeros((*lead, 3)),
        effect=jnp.zeros((*lead, depth), jnp.int32),
        values=jnp.zeros((*lead, depth, EFFECT_VALUES)),
    )


def compose(outer_23: Array, inner_23: Array) -> Array:
    """``outer ∘ inner`` as ``[…, 2, 3]``; written out, so that zeros and ones stay exact on any device."""
    a, b = outer_23, inner_23
    columns = []
    for column in range(3):
        x, y = b[..., 0, column, None], b[..., 1, column, None]
        part = a[..., :, 0] * x + a[..., :, 1] * y
        columns.append(part + a[..., :, 2] if column == 2 else part)
    return jnp.stack(columns, axis=-1)


def box_map(box_4: Array) -> Array:
    """Map from (u, v) of a box to (u, v) of the image that it is drawn on; ``box_4`` in 0…FRAME."""
    edges_4 = jnp.concatenate([box_4[:2], box_4[2:] - box_4[:2]])  # sides in whole thousandths: no cancellation
    x, y, wide, high = (edges_4[k].astype(jnp.float32) / FRAME for k in range(4))
    zero = jnp.zeros_like(x)
    return jnp.stack([jnp.stack([wide, zero, x]), jnp.stack([zero, high, y])])


def look_through(view: View, inner_23: Array) -> View:
    """The view seen through a map from new to old (u, v): panels and seam move together."""
    a, b, c = view.seam[0], view.seam[1], view.seam[2]
    m = inner_23
    seam = [a * m[0, 0] + b * m[1, 0], a * m[0, 1] + b * m[1, 1], c - a * m[0, 2] - b * m[1, 2]]
    return view.replace(affine=compose(view.affine, inner_23[None]), seam=jnp.stack(seam))


def panel_at(view: View, u: Array, v: Array) -> Array:
    """Index of the panel that is shown at a point of the view: 0 or 1. Of a difference it is panel A."""
    beyond = view.seam[0] * u + view.seam[1] * v >= view.seam[2]
    return jnp.where((view.blend == Blend.SEAM) & beyond, 1, 0).astype(jnp.int32)


def panel_of_box(view: View, box_4: Array) -> Array:
    """Index of the panel on which the middle of a box in 0…FRAME lies."""
    middle_2 = (box_4[:2] + box_4[2:]).astype(jnp.float32) / (2 * FRAME)
    return panel_at(view, middle_2[0], middle_2[1])


def panel_of_point(view: View, point_2: Array) -> Array:
    """Index of the panel on which a point in 0…FRAME lies."""
    return panel_at(view, point_2[0].astype(jnp.float32) / FRAME, point_2[1].astype(jnp.float32) / FRAME)


def single(view: View, panel: Array) -> View:
    """The view as if it were one panel only."""
    both = jnp.stack([panel, panel])
    return view.replace(
        source=view.source[both],
        affine=view.affine[both],
        window=view.window[both],
        blend=jnp.full_like(view.blend, int(Blend.ONE)),
    )


def to_pixels(view: View, panel: Array, point_2: Array) -> Array:
    """(x, y) in pixels of the panel's original of a point in 0…FRAME of the view: float32 ``[2]``."""
    u, v = point_2[0].astype(jnp.float32) / FRAME, point_2[1].astype(jnp.float32) / FRAME
    m = view.affine[panel]
    return m[:, 0] * u + m[:, 1] * v + m[:, 2]


def on_image(originals: Originals, source: Array, point_2: Array) -> Array:
    """Whether (x, y) lies on an original, or within half a pixel of it: the rounding of a turned view is forgiven."""
    size_2 = originals.size_O2[source][::-1].astype(jnp.float32)
    return jnp.all((point_2 >= -0.5) & (point_2 <= size_2 + 0.5))


def inverse(affine_23: Array) -> Array:
    """Map from (x, y) back to (u, v)."""
    a, b, c, d = affine_23[0, 0], affine_23[0, 1], affine_23[1, 0], affine_23[1, 1]
    scale = 1.0 / (a * d - b * c)
    linear = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])]) * scale
    offset = -(linear[:, 0] * affine_23[0, 2] + linear[:, 1] * affine_23[1, 2])
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def unit_terms(view: View, panel: Array, canvas: tuple[int, int]) -> tuple[Array, Array]:
    """What the column and what the row of a pixel's centre add to its (u, v): float32 ``[2, X]`` and ``[2, Y]``.

    Of the panel's original. Worked out once for the canvas: whatever window of it is looked at, a pixel adds up the
    same two numbers, and lies on the same side of the edge of a box.
    """
    m = inverse(view.affine[panel])
    x_1X, y_1Y = (jnp.arange(canvas[axis], dtype=jnp.float32)[None] + 0.5 for axis in (1, 0))
    return m[:, :1] * x_1X + m[:, 2:], m[:, 1:2] * y_1Y


def inside(view: View, panel: Array, box_4: Array, u_YX: Array, v_YX: Array) -> Array:
    """Which points (u, v) of the view lie in a box of it and on a panel: bool ``[Y, X]``.

    Args:
      box_4: int32 x1 y1 x2 y2 in 0…FRAME of the view.
    """
    box = box_4.astype(jnp.float32) / FRAME
    within_YX = (u_YX >= box[0]) & (u_YX < box[2]) & (v_YX >= box[1]) & (v_YX < box[3])
    beyond_YX = view.seam[0] * u_YX + view.seam[1] * v_YX >= view.seam[2]
    return within_YX & ((view.blend != Blend.SEAM) | (beyond_YX == (panel == 1)))


def bounds(view: View, panel: Array, box_4: Array, size_2: Array) -> Array:
    """Pixels of the panel's original around a box of the view, a pixel to spare: int32 from x1 y1 up to x2 y2.

    The last are not in it. Clipped to the ``size_2`` rows and columns of the original.
    """
    u_4, v_4 = (box_4.astype(jnp.float32)[jnp.array(corners)] / FRAME for corners in ((0, 2, 0, 2), (1, 1, 3, 3)))
    m = view.affine[panel]
    place_24 = m[:, :1] * u_4[None] + m[:, 1:2] * v_4[None] + m[:, 2:]
    last_2 = size_2[::-1].astype(jnp.float32)
    low_2 = jnp.clip(jnp.floor(jnp.min(place_24, axis=1)) - 1.0, 0.0, last_2)
    high_2 = jnp.clip(jnp.ceil(jnp.max(place_24, axis=1)) + 1.0, 0.0, last_2)
    return jnp.concatenate([low_2, high_2]).astype(jnp.int32)


def edges(view: View) -> Array:
    """Height and width, in pixels of the original, of what a view shows: float32 ``[…, 2]``.

    Lengths of the view's two edges; of a pair the halves count, as large as they lie in their originals.
    """
    m = view.affine[..., 0, :, :2]
    length_2 = jnp.hypot(m[..., 0, :], m[..., 1, :])[..., ::-1]
    return jnp.maximum(jnp.abs(length_2), 1e-6)


def sample_mask(
    view: View, mask_YX: Array, corner_2: Array, source: Array, originals: Originals, size: tuple[int, int]
) -> Array:
    """A mask of an original as a view shows it, the pixel under each pixel's middle: bool ``[h, w]``.

    False where the view shows another original or nothing. Of a difference panel A counts.

    Args:
      mask_YX: bool, of a part of the original, False beyond it.
      corner_2: int32 x, y at which that part begins.
    """
    u_hw = jnp.broadcast_to((jnp.arange(size[1], dtype=jnp.float32)[None] + 0.5) / size[1], size)
    v_hw = jnp.broadcast_to((jnp.arange(size[0], dtype=jnp.float32)[:, None] + 0.5) / size[0], size)
    panel_hw = panel_at(view, u_hw, v_hw)
    m = view.affine[panel_hw]
    x_hw, y_hw = (m[..., k, 0] * u_hw + m[..., k, 1] * v_hw + m[..., k, 2] for k in range(2))
    rows, columns = (originals.size_O2[source][k].astype(jnp.float32) for k in range(2))
    on_hw = (x_hw >= 0) & (x_hw < columns) & (y_hw >= 0) & (y_hw < rows) & (view.source[panel_hw] == source)
    at_x, at_y = (jnp.floor(at_hw).astype(jnp.int32) - corner_2[k] for k, at_hw in enumerate((x_hw, y_hw)))
    last_y, last_x = mask_YX.shape[0] - 1, mask_YX.shape[1] - 1
    on_hw &= (at_x >= 0) & (at_x <= last_x) & (at_y >= 0) & (at_y <= last_y)
    return on_hw & mask_YX[jnp.clip(at_y, 0, last_y), jnp.clip(at_x, 0, last_x)]


def outline(affine_23: np.ndarray, size_2: np.ndarray) -> np.ndarray:
    """Host: the box x1 y1 x2 y2, 0…1 of an original of ``size_2`` rows and columns, around a view: ``[…, 4]``."""
    a = np.asarray(affine_23, np.float64)
    corners = [a[..., :, 0] * u + a[..., :, 1] * v + a[..., :, 2] for u in (0, 1) for v in (0, 1)]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    unit = np.asarray(size_2, np.float64)[..., ::-1]
    return np.concatenate([low / unit, high / unit], axis=-1)
