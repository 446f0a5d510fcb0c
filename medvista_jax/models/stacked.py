"""Decoder layers one behind the other in single arrays, so that a forward without a cache compiles one layer for all.

The training forward of a model of 36 layers is 36 times the same program; as a loop over stacked parameters the
compiler sees it once. The stack is a copy of the parameters.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, Params

STACK = "decoder/layers"
"""Path of the stacked leaves, ``[layers, …]`` each."""
_LAYER = re.compile(r"^decoder/layer_(\d+)/(.*)$")


def stack_layers(flat: dict[str, Array]) -> dict[str, Array]:
    """Flat parameters, or a part of them, with ``decoder/layer_<i>/…`` as one leaf ``decoder/layers/…``.

    Raises:
      ValueError: a leaf that some layers have and others have not, such as where only the upper ones learn.
    """
    found: dict[str, dict[int, Array]] = defaultdict(dict)
    rest = {}
    for path, leaf in flat.items():
        if match := _LAYER.match(path):
            found[match[2]][int(match[1])] = leaf
        else:
            rest[path] = leaf
    count = 1 + max((layer for layers in found.values() for layer in layers), default=-1)
    for name, layers in found.items():
        if lost := set(range(count)) - set(layers):
            raise ValueError(
                f"layers can be stacked only where all hold the same leaves: {name} of layer {min(lost)} is not among "
                "the others; train (or adapt) all layers alike, or set scan_layers=False"
            )
    return rest | {f"{STACK}/{name}": jnp.stack([layers[i] for i in range(count)]) for name, layers in found.items()}


def unstack_layers(flat: dict[str, Array]) -> dict[str, Array]:
    """The way back from :func:`stack_layers`."""
    apart = {}
    for path, leaf in flat.items():
        if path.startswith(f"{STACK}/"):
            name = path.removeprefix(f"{STACK}/")
            apart |= {f"decoder/layer_{i}/{name}": leaf[i] for i in range(len(leaf))}
        else:
            apart[path] = leaf
    return apart


def scan_layers(
    layer: nn.Module,
    stacked: Params,
    x_BTE: Array,
    context: tuple[Array, ...],
    deepstack: tuple[Array, ...],
    keep: Callable[..., bool] | None,
) -> Array:
    """A layer applied with each of the stacked parameters in turn.

    Args:
      layer: ``(x, *context) -> x``, called with one layer's parameters.
      deepstack: the i-th is added to what layer i gives.
      keep: policy of ``jax.checkpoint``; None keeps everything for the gradient.
    """
    deep_DBTE = jnp.stack(deepstack) if deepstack else None

    def body(x_BTE: Array, operands: tuple[Array, Params]) -> tuple[Array, None]:
        index, params = operands
        x_BTE = layer.apply({"params": params}, x_BTE, *context)
        if deep_DBTE is not None:
            added_BTE = deep_DBTE[jnp.minimum(index, len(deepstack) - 1)]
            x_BTE = x_BTE + jnp.where(index < len(deepstack), added_BTE, 0)
        return x_BTE, None

    if keep is not None:
        body = jax.checkpoint(body, policy=keep, prevent_cse=False)
    count = len(jax.tree.leaves(stacked)[0])
    return jax.lax.scan(body, x_BTE, (jnp.arange(count), stacked))[0]
