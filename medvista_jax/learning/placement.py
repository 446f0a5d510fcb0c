"""Parameters and states on a mesh, and the copies of parameters that a step computes with.

    with jax.set_mesh(mesh):
        state = place_state(model, state)
        state, metrics = grpo_step(model, optimizer, config, environment, state, *place_rows((question, key)), sampling)

Masters and the optimizer's moments lie cut over ``fsdp`` and ``tensor``. The update computes with a copy of the same
layout in the model's dtype, of which a layer is gathered at a time. A rollout reads every parameter for every token,
so its copy is whole along ``fsdp`` from the start.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from medvista_jax.core.layout import NAMES, managed
from medvista_jax.core.types import Array, Params
from medvista_jax.learning.state import FlatParams, TrainState, join
from medvista_jax.models.families import sharding_rules
from medvista_jax.models.names import flatten
from medvista_jax.models.stacked import STACK, stack_layers
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.runtime.sharding import Rules, as_returned, place

_ADAPTER = ("kernel_lora_a", "kernel_lora_b")


def state_shardings(model: VisionLanguageModel, state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """A ``NamedSharding`` for every leaf of a state, or of its shapes: parameters and moments by the family's rules."""
    rules = sharding_rules(model)
    spec = lambda path, leaf: NamedSharding(mesh, _specification(path, leaf, rules, mesh))  # noqa: E731
    return jax.tree_util.tree_map_with_path(spec, state)


def place_state(model: VisionLanguageModel, state: TrainState) -> TrainState:
    """The state on the mesh in context.

    Raises:
      ValueError: there is no mesh in context.
    """
    return jax.device_put(state, state_shardings(model, state, _mesh()))


def place_rows(tree: Any) -> Any:
    """Arrays with a leading axis of prompts or rows on the mesh in context, cut along ``data`` and ``fsdp``.

    An axis that does not divide the rows is left out.

    Raises:
      ValueError: there is no mesh in context.
    """
    return jax.device_put(tree, row_shardings(tree, _mesh()))


def row_shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """A ``NamedSharding`` for every leaf of :func:`place_rows`; leaves without axes are whole everywhere."""

    def spread(leaf: Any) -> NamedSharding:
        kept, size = [], leaf.shape[0] if leaf.ndim else 1
        for axis in NAMES["batch"]:
            if size % mesh.shape[axis] == 0 and mesh.shape[axis] > 1:
                kept.append(axis)
                size //= mesh.shape[axis]
        entry = tuple(kept) if len(kept) > 1 else kept[0] if kept else None
        return NamedSharding(mesh, as_returned(PartitionSpec(entry)))

    return jax.tree.map(spread, tree)


def hold(model: VisionLanguageModel, tree: Any) -> Any:
    """Inside a program: flat parameters, gradients or a state kept where they lie. Without a mesh: as they are."""
    if not managed():
        return tree
    rules, mesh = sharding_rules(model), jax.sharding.get_abstract_mesh()

    def constrained(path: Any, leaf: Array) -> Array:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, _specification(path, leaf, rules, mesh))

    return jax.tree_util.tree_map_with_path(constrained, tree)


def lowered(model: VisionLanguageModel, flat: FlatParams) -> FlatParams:
    """Matrices in the dtype that the model computes in; vectors (norms, biases) and adapters as they are.

    Nothing is raised: parameters that are narrower than the model's dtype stay so.
    """
    dtype = jnp.dtype(model.dtype)

    def lower(path: str, leaf: Array) -> Array:
        wide = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize > dtype.itemsize
        if leaf.ndim < 2 or not wide or path.rsplit("/", 1)[-1] in _ADAPTER:
            return leaf
        return leaf.astype(dtype)

    return hold(model, {path: lower(path, leaf) for path, leaf in flat.items()})


def computed(model: VisionLanguageModel, flat: FlatParams, stacked: bool) -> FlatParams:
    """What the training forward reads: :func:`lowered`, and the decoder's layers as one stack where that is asked for.

    Raises:
      ValueError: the layers cannot be stacked (:func:`medvista_jax.models.stacked.stack_layers`).
    """
    flat = lowered(model, flat)
    return hold(model, stack_layers(flat)) if stacked else flat


def policy_params(model: VisionLanguageModel, state: TrainState) -> Params:
    """What a rollout reads: the lowered parameters, the decoder cut along ``tensor``, all else whole."""
    flat = lowered(model, {**state.trainable, **state.frozen})
    if managed():
        where = policy_specifications(model, flat, jax.sharding.get_abstract_mesh())
        flat = {path: jax.lax.with_sharding_constraint(leaf, where[path]) for path, leaf in flat.items()}
    return join(flat, {})


def place_policy(model: VisionLanguageModel, params: Params, mesh: jax.sharding.Mesh) -> Params:
    """Parameters laid out as :func:`policy_params` has them, outside of a program and in the dtypes that they have."""
    flat = flatten(params)
    where = policy_specifications(model, flat, mesh)
    return join({path: jax.device_put(leaf, NamedSharding(mesh, where[path])) for path, leaf in flat.items()}, {})


def with_whole_head(model: VisionLanguageModel, params: Params) -> Params:
    """Parameters whose output embedding is whole along ``fsdp``; on one device, as they are."""
    if not managed():
        return params
    decoder, mesh = params["decoder"], jax.sharding.get_abstract_mesh()
    name = "head" if "head" in decoder else "embedding"
    where = policy_specifications(model, {f"decoder/{name}": decoder[name]}, mesh)[f"decoder/{name}"]
    head_VE = jax.lax.with_sharding_constraint(decoder[name], where)
    return {**params, "decoder": {**decoder, name: head_VE}}


_WHOLE = ("vision/", "connector/")
"""Whole on every device in a rollout: each encodes some images whole, and would gather the kernels for every view."""


def policy_specifications(model: VisionLanguageModel, flat: FlatParams, mesh: Any) -> dict[str, PartitionSpec]:
    """Where the leaves of :func:`policy_params` lie, by path."""
    rules = _without(sharding_rules(model), "fsdp")
    where = lambda path, leaf: as_returned(place(path, leaf, rules, mesh).spec)  # noqa: E731
    return {path: PartitionSpec() if path.startswith(_WHOLE) else where(path, leaf) for path, leaf in flat.items()}


def _without(rules: Rules, axis: str) -> Rules:
    """The rules with an axis left out of every specification."""

    def entry(axes: Any) -> Any:
        kept = tuple(name for name in (axes if isinstance(axes, tuple) else (axes,)) if name not in (None, axis))
        return kept or None

    without = lambda spec: PartitionSpec(*map(entry, spec))  # noqa: E731
    return tuple(
        (pattern, without(where) if isinstance(where, PartitionSpec) else tuple(map(without, where)))
        for pattern, where in rules
    )


def _specification(path: Any, leaf: Any, rules: Rules, mesh: Any) -> PartitionSpec:
    """Of a leaf of a state: the path of its parameter is the last key, under whatever stands before it."""
    if not leaf.ndim:
        return PartitionSpec()
    name = str(getattr(path[-1], "key", ""))
    if name.startswith(f"{STACK}/"):  # by the rule of its layers
        layer = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        return as_returned(PartitionSpec(None, *place(name, layer, rules, mesh).spec))
    return as_returned(place(name, leaf, rules, mesh).spec) if "/" in name else PartitionSpec()


def _mesh() -> jax.sharding.Mesh:
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        raise ValueError("there is no mesh in context; write it inside 'with jax.set_mesh(make_mesh(…)):'")
    return mesh
