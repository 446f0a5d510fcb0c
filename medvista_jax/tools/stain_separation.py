"""``stain_separation``: how much of one dye a stained section holds.

A. C. Ruifrok and D. A. Johnston, "Quantification of histochemical staining by color deconvolution", Analytical and
Quantitative Cytology and Histology 23, 2001.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Array
from medvista_jax.tools.define import effect_tool

HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)
"""Optical densities in red, green and blue of one unit of a dye, after Ruifrok and Johnston."""

_SECTIONS = {
    "haematoxylin": (HAEMATOXYLIN, EOSIN),
    "eosin": (EOSIN, HAEMATOXYLIN),
    "dab": (DAB, HAEMATOXYLIN),
    "haematoxylin_beside_dab": (HAEMATOXYLIN, DAB),
}
"""The dye that is shown and the other dye of the section."""


def weights(shown: tuple[float, ...], other: tuple[float, ...]) -> np.ndarray:
    """float64 ``[3]``: the amount of the dye ``shown`` is their product with the optical densities of a pixel.

    The first column of the inverse of (shown, other, residual), the residual at right angles to the two dyes.
    """
    rows = [np.array(dye) / np.linalg.norm(dye) for dye in (shown, other)]
    return np.linalg.inv(np.array([*rows, np.cross(*rows)]))[:, 0]


@effect_tool(
    "Show one dye of a stained tissue section, dark where there is much of it.",
    Argument("stain", "the first two in H&E, the others in H-DAB sections", "enum", choices=tuple(_SECTIONS)),
    colour=True,
)
def stain_separation(levels_hwC: Array, stain: Array) -> Array:
    """The section as it would look in grey with that dye alone: level = 255 * 10 ** -amount.

    An amount of 1 is the dye at an optical density of 1 along its own, normalised vector: level 25.5; none of it is
    white. Densities are -log10(level / 255), of black as of level 1.
    """
    dye_S3 = jnp.asarray([weights(*pair) for pair in _SECTIONS.values()], jnp.float32)
    log_hw3 = jnp.log(jnp.maximum(levels_hwC, 1.0) / 255.0)
    red, green, blue = (dye_S3[stain, c] * log_hw3[..., c] for c in range(3))
    transmitted_hw = 255.0 * jnp.exp(jnp.minimum(red + green + blue, 0.0))  # one base or another
    return jnp.broadcast_to(transmitted_hw[..., None], levels_hwC.shape)
