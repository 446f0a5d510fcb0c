"""Images to features, on a mesh as many at a time on each device as its memory is meant for."""

from __future__ import annotations

import jax

from medvista_jax.core.layout import constrain, platform, shards
from medvista_jax.core.types import Array, Params
from medvista_jax.models.vlm import Features, VisionLanguageModel, spread_features
from medvista_jax.tools.pixels import beside

IMAGES_AT_ONCE = 2
"""A device, on an accelerator. Attention scores of an image of 512 x 512 pixels take 64 MB in a tower of 16 heads."""


def encode_images(model: VisionLanguageModel, params: Params, pixels_NhwC: Array) -> Features:
    """:meth:`VisionLanguageModel.encode_images` with the images spread over all devices: leaves ``[N, L, …]``.

    No product over ``tensor`` takes part in what a row looks like, so every device encodes some images whole.
    """
    pixels_NhwC = constrain(pixels_NhwC, "rows")
    count = pixels_NhwC.shape[0]
    parts = shards("rows", count)
    if platform() == "cpu" or count // parts <= IMAGES_AT_ONCE or count // parts % IMAGES_AT_ONCE:
        return spread_features(model.encode_images(params, pixels_NhwC))
    rounds, size = count // parts // IMAGES_AT_ONCE, pixels_NhwC.shape[1:]
    pixels_PRN = beside(pixels_NhwC.reshape((parts, rounds, IMAGES_AT_ONCE) + size))
    pixels_RN = pixels_PRN.swapaxes(0, 1).reshape((rounds, parts * IMAGES_AT_ONCE) + pixels_PRN.shape[3:])
    some = lambda pixels: model.encode_images(params, constrain(pixels, "rows").reshape((-1,) + size))  # noqa: E731
    features_RN = jax.lax.map(some, constrain(pixels_RN, None, "rows"))

    def merge(leaf_RN: Array) -> Array:
        leaf_RPN = leaf_RN.reshape((rounds, parts, IMAGES_AT_ONCE) + leaf_RN.shape[2:])
        return leaf_RPN.swapaxes(0, 1).reshape((count,) + leaf_RN.shape[2:])

    return spread_features(jax.tree.map(merge, features_RN))
