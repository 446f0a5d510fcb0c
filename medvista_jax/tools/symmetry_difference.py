"""``symmetry_difference``: where left and right differ, and how much."""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import Array, Blend, Fault
from medvista_jax.tools.base import Sight
from medvista_jax.tools.define import Reading, measure_tool
from medvista_jax.tools.geometry import compose, single

_MIRROR = ((-1.0, 0.0, 1.0), (0.0, 1.0, 0.0))


@measure_tool(
    "Show the difference between an image and its left-right mirror image, and measure it.",
    texts=("image {image}, difference {0:3.2u} %",),
    image=True,
    reads=False,
    sees=True,
)
def symmetry_difference(sight: Sight) -> Reading:
    """A view of |image - mirror image|, itself symmetric; its two panels are the view and its mirror image.

    The number is the mean absolute difference of the levels that the policy sees, effects included, over all pixels and
    channels: 0 % for a symmetric image, 100 % for black opposite white. On the returned view the effects are applied to
    the difference. Faults: UNSUITABLE_IMAGE for a pair or a difference, which have no mirror image of one map.
    """
    view = sight.view
    suitable = view.blend == Blend.ONE
    one = single(view, jnp.int32(0))
    mirrored = compose(one.affine[1], jnp.array(_MIRROR))
    view = one.replace(
        affine=jnp.stack([one.affine[0], mirrored]), blend=jnp.full_like(view.blend, int(Blend.DIFFERENCE))
    )
    return Reading(
        [_asymmetry(sight.shown_hwC)],
        view=view,
        fault=jnp.where(suitable, int(Fault.NONE), int(Fault.UNSUITABLE_IMAGE)),
    )


def _asymmetry(levels_hwC: Array) -> Array:
    """Mean absolute difference from the mirror image in per cent of 255.

    Levels are whole numbers, and so is their sum over the left half, which every pixel of the right half repeats.
    """
    half = levels_hwC.shape[1] // 2
    level_hwC = levels_hwC.astype(jnp.int32)
    apart_hwC = jnp.abs(level_hwC[:, :half] - level_hwC[:, ::-1][:, :half])
    return jnp.sum(apart_hwC).astype(jnp.float32) * (2.0 * 100.0 / 255.0 / levels_hwC.size)
