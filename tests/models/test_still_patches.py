"""Qwen's patch projection of still and of grey pictures: one frame and one channel in place of equal ones."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.models.images import qwen_patches
from medvista_jax.models.lora import LoRAConfig, init_lora, with_lora
from tests.parity import families


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("adapted", [False, True])
def test_features_are_those_of_all_frames_and_channels(name, channels, adapted):
    pair = getattr(families, name)()
    model, params = pair.model, pair.params
    if adapted:
        model = with_lora(model, LoRAConfig(rank=2, modules=r"vision/patch"))
        params = init_lora(model, params, jax.random.key(0))
        factor = params["vision"]["patch"]["kernel_lora_b"]
        params["vision"]["patch"]["kernel_lora_b"] = jax.random.normal(jax.random.key(1), factor.shape)
    c = model.config
    pixels = np.random.default_rng(0).integers(0, 256, (2, *model.image_size, channels), np.uint8)
    settings = (c.vision.patch, c.vision.merge, c.vision.temporal)
    for mean, std in ((c.image_mean, c.image_std), ((0.3, 0.5, 0.6), (0.2, 0.3, 0.4))):
        model = dataclasses.replace(model, config=dataclasses.replace(c, image_mean=mean, image_std=std))
        patches = qwen_patches(jnp.asarray(pixels), *settings, mean, std)
        assert patches.shape[-1] == 3 * c.vision.temporal * c.vision.patch**2
        expected = model.encode_patches(params, patches, model.grid)
        found = model.encode_images(params, jnp.asarray(pixels))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()))  # sums in another order
