"""Adapters on every family: exact at the start, the closed form afterwards, and one forward for rollout and loss."""

from __future__ import annotations

import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.models import lora
from medvista_jax.models.adaptable import Adaptable
from medvista_jax.models.lora import TRAINABLE, LoRA, LoRAConfig, init_lora, merge, with_lora
from medvista_jax.models.names import flatten
from tests.models.lora_cases import (
    EVERYTHING,
    FEATURE,
    MODELS,
    QWEN,
    TOKENS,
    VALID,
    adapted,
    base_params,
    inputs,
    logits_of,
    merged_by_hand,
    run,
)

FAMILIES = pytest.mark.parametrize("name", ["medvista_tiny", "qwen3_vl"])
EVERY_FAMILY = pytest.mark.parametrize("name", MODELS)
"""tests/parity/test_lora.py has Qwen2.5-VL and InternVL."""


def worst(one, other) -> float:
    """Largest difference, relative to the scale of the second."""
    other = np.asarray(other, np.float64)
    return float(np.abs(np.asarray(one, np.float64) - other).max() / np.abs(other).max())


def test_a_module_gives_the_closed_form():
    """``y = x W + b + (alpha / rank) x A B``, in float64."""

    class Two(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(6, name="out")(nn.Dense(5, name="in")(x))

    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4))
    for rank, alpha in ((2, 7.0), (3, 0.5)):
        module = LoRA(rank, alpha, ("top/in", "other/out"))(Two(), "top")
        params = module.init(jax.random.key(0), jnp.asarray(x, jnp.float32))["params"]
        assert set(flatten(params)) == {
            *("in/kernel", "in/bias", "in/kernel_lora_a", "in/kernel_lora_b", "out/kernel", "out/bias"),
        }
        drawn = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), params)
        one, two = drawn["in"], drawn["out"]
        hidden = x @ one["kernel"] + one["bias"] + alpha / rank * x @ one["kernel_lora_a"] @ one["kernel_lora_b"]
        drawn = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn)
        y = module.apply({"params": drawn}, jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(y, hidden @ two["kernel"] + two["bias"], rtol=1e-5, atol=1e-5)


@FAMILIES
def test_at_the_start_nothing_changes(name):
    base = base_params(name)
    model = with_lora(MODELS[name], EVERYTHING)
    params = init_lora(model, base, jax.random.key(0))
    flat = flatten(params)
    assert all(flat[path] is leaf for path, leaf in flatten(base).items())  # shared, not copied
    fresh = {path: np.asarray(leaf) for path, leaf in flat.items() if path not in flatten(base)}
    assert all(re.search(TRAINABLE, path) and leaf.dtype == np.float32 for path, leaf in fresh.items())
    for path, leaf in fresh.items():
        if path.endswith("_lora_b"):
            assert not leaf.any()
        else:
            bound = leaf.shape[0] ** -0.5  # torch's kaiming_uniform(a = √5), which PEFT takes
            assert 0.5 * bound < np.abs(leaf).max() <= bound and abs(leaf.mean()) < bound
    assert len({leaf.tobytes() for path, leaf in fresh.items() if path.endswith("_lora_a")}) == len(fresh) // 2
    # Bit for bit, since the tests compile without optimisations; with them sums are fused otherwise (4e-7).
    assert np.array_equal(run(model, params), run(MODELS[name], base))


@EVERY_FAMILY
def test_adapted_and_merged_models_agree(name):
    model, params = adapted(name)
    plain, merged = merge(model, params)
    assert plain == MODELS[name] and set(flatten(merged)) == set(flatten(base_params(name)))
    by_hand = merged_by_hand(params, scale=5.0 / 3)
    for path, leaf in flatten(merged).items():
        np.testing.assert_allclose(leaf, flatten(by_hand)[path], rtol=1e-6, atol=1e-6)
    expected = run(plain, merged)
    assert worst(run(model, params), expected) < 1e-5
    assert worst(run(plain, base_params(name)), expected) > 0.1  # the adapters say something


@FAMILIES
def test_gradients_reach_every_adapter(name):
    """Each B moves the logits; each A does once its B is not zero."""
    model, params = adapted(name)
    loss = lambda p: jnp.sum(jnp.square(logits_of(model, p)[:, -3]))  # noqa: E731
    gradient = jax.jit(jax.grad(loss))
    gradients = flatten(gradient(params))
    still = [path for path, g in gradients.items() if re.search(TRAINABLE, path) and not np.any(np.asarray(g))]
    assert still == []
    at_start = init_lora(model, base_params(name), jax.random.key(1))
    gradients = flatten(gradient(at_start))
    assert not any(np.any(np.asarray(g)) for path, g in gradients.items() if path.endswith("_lora_a"))
    assert all(np.any(np.asarray(g)) for path, g in gradients.items() if path.endswith("_lora_b"))


@EVERY_FAMILY
def test_every_module_with_a_kernel_can_be_adapted(name):
    kernels = {path.removesuffix("/kernel") for path in flatten(base_params(name)) if path.endswith("/kernel")}
    model, params = adapted(name)
    assert set(model.adapters.modules) == kernels == set(lora.modules(MODELS[name]))
    assert {path.partition("/")[0] for path in kernels} == {"vision", "connector", "decoder"}


@FAMILIES
def test_cached_decoding_is_the_full_forward(name):
    """Token by token and in chunks, at every step."""
    model, params = adapted(name)
    args = jax.jit(inputs, static_argnums=0)(model, params)
    full, _ = jax.jit(model.forward)(params, *args)
    tokens, feature, features, positions, valid = args
    base = base_params(name)
    forward = jax.jit(model.forward)
    for chunk in (1, 3):
        cache, blind = model.init_cache(2, 9), MODELS[name].init_cache(2, 9)
        for start in range(0, 9, chunk):
            at = slice(start, start + chunk)
            rest = tokens[:, at], feature[:, at], features, positions[:, at], valid[:, at]
            hidden, cache = forward(params, *rest, cache, start)
            shown = VALID[:, at]
            gap = np.abs(np.asarray(hidden) - np.asarray(full[:, at]))[shown]
            assert gap.max() < 1e-5
            if chunk == 3:
                without, blind = jax.jit(MODELS[name].forward)(base, *rest, blind, start)
                assert np.abs(np.asarray(without) - np.asarray(full[:, at]))[shown].max() > 0.1
    assert TOKENS.shape == FEATURE.shape == (2, 9)


@FAMILIES
def test_models_are_values(name):
    """Equal configurations are one program; others are not."""
    one, two = (with_lora(MODELS[name], LoRAConfig(2, 4.0)) for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert one != MODELS[name] and one != with_lora(MODELS[name], LoRAConfig(2, 5.0))
    assert one == with_lora(MODELS[name], LoRAConfig(2, 4, r"decoder/.*"))  # the same modules
    assert type(one) is type(MODELS[name]) and one.vocab_size == MODELS[name].vocab_size
    traced = []

    def count(model, x):
        traced.append(model)
        return x

    compiled = jax.jit(count, static_argnums=0)
    compiled(one, 1.0), compiled(two, 2.0)
    assert len(traced) == 1


@pytest.mark.parametrize("rank", [16, 32])
@FAMILIES
def test_rank_as_wide_as_a_kernel(name, rank):
    """Adapters then have the shape of a kernel, by which qwix might mistake one for the other."""
    model, params = adapted(name, LoRAConfig(rank, 4.0, ".*"))
    shapes = {path: leaf.shape for path, leaf in flatten(params).items()}
    assert any(shapes[path] == shapes[path[: -len("_lora_a")]] for path in shapes if path.endswith("_lora_a"))
    assert worst(run(model, params), run(MODELS[name], merged_by_hand(params, 4.0 / rank))) < 1e-5


def test_rank_as_wide_as_a_kernel_needs_float32():
    model = with_lora(QWEN, LoRAConfig(16, 4.0))
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), base_params("qwen3_vl"))
    with pytest.raises(ValueError, match=r"rank 16 is a side of decoder/layer_0/k/kernel \(32, 16\).*choose another"):
        init_lora(model, half, jax.random.key(0))


def test_bfloat16_base_float32_adapters():
    """The adapters stay float32, activations and cache do not; the product is not rounded before the sum."""
    model, params = adapted("qwen3_vl")
    exact = np.asarray(run(model, params), np.float64)
    half = {path: leaf.astype(jnp.bfloat16) for path, leaf in flatten(base_params("qwen3_vl")).items()}
    fresh = flatten(init_lora(model, lora.nest(half), jax.random.key(1)))
    assert {leaf.dtype.name for path, leaf in fresh.items() if "_lora_" in path} == {"float32"}
    mixed = lora.nest({path: half.get(path, leaf) for path, leaf in flatten(params).items()})
    args = jax.jit(inputs, static_argnums=0)(model, mixed)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(args[2])} == {"bfloat16"}
    cache = dataclasses.replace(model, dtype="bfloat16").init_cache(2, 9)
    hidden, cache = jax.jit(model.forward)(mixed, *args, cache, 0)
    assert hidden.dtype == cache.keys[0].dtype == jnp.bfloat16
    # No further from the truth than the merged model, whose kernels are rounded once more.
    plain, merged = merge(model, mixed)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(merged)} == {"bfloat16"}
    spread = np.abs(np.asarray(run(plain, merged), np.float64) - exact).max()
    assert 0 < np.abs(np.asarray(run(model, mixed), np.float64) - exact).max() < 2 * spread < 0.2 * np.abs(exact).max()
    by_hand = flatten(merged_by_hand(mixed, 5.0 / 3, "bfloat16"))
    for path, leaf in flatten(merged).items():
        np.testing.assert_allclose(leaf.astype(np.float32), by_hand[path].astype(np.float32), rtol=2**-7, atol=1e-6)


def test_modules_are_chosen_by_whole_paths():
    model = with_lora(QWEN, LoRAConfig(modules=r"decoder/layer_1/(q|up)|vision/layer_\d+/attention/qkv"))
    assert sorted(model.adapters.modules) == [
        "decoder/layer_1/q",
        "decoder/layer_1/up",
        "vision/layer_0/attention/qkv",
        "vision/layer_1/attention/qkv",
    ]
    default = with_lora(QWEN, LoRAConfig()).adapters.modules
    assert len(default) == 2 * 7 and all(path.startswith("decoder/layer_") for path in default)


def test_errors_say_what_to_do():
    for wrong, message in (
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"alpha": -1.0}, "alpha must be positive, not -1.0"),
        ({"alpha": float("nan")}, "alpha must be positive, not nan"),
        ({"modules": "("}, "modules '(' is no regular expression: missing )"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            LoRAConfig(**wrong)
    with pytest.raises(
        ValueError, match=r"'q_proj' matches no module; the model has .*decoder/layer_N/q, .*vision/patch"
    ):
        with_lora(QWEN, LoRAConfig(modules="q_proj"))
    base, model = base_params("qwen3_vl"), with_lora(QWEN, LoRAConfig(2, 4.0))
    params = init_lora(model, base, jax.random.key(0))
    with pytest.raises(ValueError, match="the model has adapters already; merge them first"):
        with_lora(model, LoRAConfig())
    with pytest.raises(ValueError, match=r"have adapters already \(decoder/layer_0/.* and 23 more\)"):
        init_lora(model, params, jax.random.key(0))
    with pytest.raises(ValueError, match=r"lack the adapters decoder/layer_0/.* and 23 more; init_lora"):
        merge(model, base)
    for call in (merge, init_lora):
        with pytest.raises(ValueError, match="the model has no adapters; make it with with_lora"):
            call(QWEN, base, *([jax.random.key(0)] if call is init_lora else []))


def test_a_family_that_forgets_the_hook_is_told():
    @dataclasses.dataclass(frozen=True)
    class Forgetful(Adaptable):
        def init(self, key):
            return {"decoder": {"q": nn.Dense(3).init(key, jnp.zeros((1, 2)))["params"]}}

    model = with_lora(Forgetful(), LoRAConfig(modules=".*"))
    with pytest.raises(ValueError, match=r"no adapters were made for decoder/q: does init pass each module through"):
        init_lora(model, Forgetful().init(jax.random.key(0)), jax.random.key(0))
