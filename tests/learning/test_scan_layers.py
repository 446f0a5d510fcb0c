"""A loop over stacked layers computes what the layers one by one compute: values, gradients, updates."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvista_jax.learning.grpo import grpo_update
from medvista_jax.learning.sft import SFTConfig, sft_step
from medvista_jax.learning.state import start
from medvista_jax.models.lora import TRAINABLE, LoRAConfig, init_lora, with_lora
from medvista_jax.models.names import flatten, nest
from medvista_jax.models.stacked import stack_layers, unstack_layers
from medvista_jax.rollout.sampling import Sampling
from tests import tiny
from tests.models.lora_cases import MODELS, base_params

SGD = optax.sgd(0.05)  # linear in the gradient: an update shows it to rounding


def case(name: str, lora: bool):
    """A model, parameters and what learns; adapters begin away from zero."""
    model, params = MODELS[name], base_params(name)
    if not lora:
        return model, params, ("^decoder",)
    model = with_lora(model, LoRAConfig(3, 5.0))
    params = init_lora(model, params, jax.random.key(1))
    lift = lambda path, leaf: leaf + 0.05 if path.endswith("_b") else leaf  # noqa: E731
    return model, nest({path: lift(path, leaf) for path, leaf in flatten(params).items()}), (TRAINABLE,)


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_a_forward_by_layers_in_a_loop(name, lora):
    """With deepstack in the Qwen model, which has more layers than levels."""
    model, params, _ = case(name, lora)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(1, 100, (2, 20)), jnp.int32)
    feature = jnp.where(jnp.arange(20) < 4, jnp.arange(20), -1)[None].repeat(2, 0)
    features = model.encode_images(params, jnp.asarray(rng.integers(0, 255, (2, 16, 16, 1)), jnp.uint8))
    features = jax.tree.map(lambda leaf: leaf[:, None], features)
    valid = jnp.ones((2, 20), bool).at[1, 15:].set(False)
    positions, _ = model.positions(jnp.zeros(2, jnp.int32), valid, feature)
    forward = jax.jit(lambda params: model.forward(params, tokens, feature, features, positions, valid)[0])
    flat = flatten(params)
    stacked = stack_layers(flat)
    assert len(stacked) < len(flat) and all(
        np.array_equal(leaf, flat[path]) for path, leaf in unstack_layers(stacked).items()
    )
    np.testing.assert_allclose(forward(nest(stacked)), forward(params), rtol=0, atol=2e-5)  # hidden states of unit size


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_a_grpo_update_is_the_same(lora):
    model, params, trainable = case("qwen3_vl", lora)
    question, script = tiny.make_question(), tiny.make_script(tiny.MIXED)
    play = jax.jit(tiny.rollout, static_argnames=("model", "group"))
    t = play(model, params, tiny.environment(), question, jax.random.key(0), 2, Sampling.at(1.0), script)
    config = dataclasses.replace(tiny.GRPO, group=2, chunk=3, kl="k3", kl_coefficient=0.2, remat="full")
    found = []
    for scan in (False, True):
        state = start(params, trainable, SGD, jax.random.key(3))
        reference = {path: leaf * 1.03 for path, leaf in state.trainable.items()}
        settings = dataclasses.replace(config, scan_layers=scan)
        found.append(
            grpo_update(
                model,
                SGD,
                settings,
                tiny.environment(),
                state,
                t,
                tiny.make_key(),
                Sampling.at(1.0),
                reference=reference,
            )
        )
    (plain, before), (scanned, after) = found
    assert float(before["grad_norm"]) > 1e-3 and set(plain.trainable) == set(scanned.trainable)
    for name in ("loss", "kl", "entropy", "grad_norm"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-6)
    for path, leaf in plain.trainable.items():  # sums in another order
        np.testing.assert_allclose(scanned.trainable[path], leaf, rtol=0, atol=2e-6, err_msg=path)


def test_an_sft_step_is_the_same():
    model, params, trainable = case("medvista_tiny", False)
    found = []
    for settings in (SFTConfig(chunk=3), SFTConfig(chunk=3, remat="dots", scan_layers=True)):
        state = start(params, trainable, SGD, jax.random.key(3))
        question, script = tiny.make_question(), tiny.make_script(tiny.LESSONS)
        found.append(sft_step(model, SGD, settings, tiny.environment(), state, question, script))
    (plain, before), (scanned, after) = found
    np.testing.assert_allclose(after["loss"], before["loss"], rtol=1e-5)
    for path, leaf in plain.trainable.items():
        np.testing.assert_allclose(scanned.trainable[path], leaf, rtol=0, atol=2e-6, err_msg=path)


def test_layers_that_differ_are_refused():
    flat = {"decoder/layer_0/q/kernel": 0, "decoder/layer_1/q/kernel": 1, "decoder/layer_1/q/kernel_lora_a": 2}
    with pytest.raises(ValueError, match="q/kernel_lora_a of layer 0 is not among the others; train"):
        stack_layers(flat)
    with pytest.raises(ValueError, match="remat 'half' is unknown"):
        SFTConfig(remat="half")
