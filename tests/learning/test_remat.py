"""Rematerialisation changes what a block keeps, not what it gives; gradients: tests/learning/test_grpo_settings.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from medvista_jax.learning.remat import with_remat
from medvista_jax.models.blocks import REMAT
from medvista_jax.models.lora import LoRAConfig, init_lora, with_lora
from tests import tiny

LORA = with_lora(tiny.MODEL, LoRAConfig(2, 4.0))


def kept(model, params) -> int:
    """Elements that the forward of a training step hands to its backward."""
    batch, slots = 2, 12
    tokens = jnp.ones((batch, slots), jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(slots)[None, :, None], (batch, slots, 1))
    features = jnp.zeros((batch, 1, model.tokens_per_image, model.config.decoder.width))

    def forward(decoder):
        hidden, _ = model.forward(
            {**params, "decoder": decoder}, tokens, tokens * 0 - 1, features, positions, tokens > 0
        )
        return hidden

    _, pull = jax.eval_shape(lambda decoder: jax.vjp(forward, decoder), params["decoder"])
    return sum(leaf.size for leaf in jax.tree.leaves(pull))


@pytest.mark.parametrize("model", [tiny.MODEL, LORA], ids=["plain", "lora"])
def test_blocks_keep_less(model):
    params = tiny.params()
    params = params if model is tiny.MODEL else init_lora(model, params, jax.random.key(0))
    assert with_remat(model, "none") is model
    sizes = {policy: kept(with_remat(model, policy), params) for policy in ("none", *REMAT)}
    assert sizes["full"] < sizes["dots_no_batch"] <= sizes["dots"] < sizes["none"]
