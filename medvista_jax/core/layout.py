"""Where activations lie on a mesh, by logical names: the one place that says which axis of the mesh a name means.

Without a mesh in context nothing happens. With one (``with jax.set_mesh(mesh):``) the compiler is told, and fills in
the rest. An axis that does not divide its dimension is left out, as for parameters.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

NAMES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),  # rows of a batch
    "rows": ("data", "fsdp", "tensor"),  # the same over every device: where no product over ``tensor`` takes part
    "heads": ("tensor",),
    "width": ("tensor",),  # hidden units of a feed-forward, and of image embeddings that wait
    "vocabulary": ("tensor",),
}
"""Logical name -> axes of :data:`medvista_jax.runtime.mesh.AXES`, the first the slowest."""


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """``x`` laid out by the logical names of its first dimensions; the others whole on every device.

    Args:
      names: a key of :data:`NAMES` a dimension, None for whole.
    """
    return jax.lax.with_sharding_constraint(x, specification(x.shape, *names)) if managed() else x


def cut_unevenly(name: str, size: int) -> bool:
    """Whether the mesh has axes for a dimension, and they do not all divide it."""
    sizes = _axis_sizes()
    return _fitting(size, name, sizes) != tuple(axis for axis in NAMES[name] if axis in sizes)


def cut(x: jax.Array, axis: int, name: str) -> jax.Array:
    """``x`` cut along an axis whether it divides or not (the compiler pads the last slice); the others lie as they did.

    For what is too large to be whole anywhere and has the size that it has, as a vocabulary. Not at the edge of a
    program: arguments and results are cut evenly.
    """
    axes = tuple(found for found in NAMES[name] if found in _axis_sizes())
    if not axes:
        return x
    entries: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
    entries[axis] = axes
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))


def along(x: jax.Array, *names: str | None) -> jax.Array:
    """:func:`constrain`, but the dimensions without a name lie as they did."""
    if not managed():
        return x
    spec = specification(x.shape, *names)
    rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - len(spec))
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec, *rest))


def specification(shape: tuple[int, ...], *names: str | None) -> PartitionSpec:
    """What :func:`constrain` asks for."""
    return PartitionSpec(*_entries(shape, names, _axis_sizes()))


def platform() -> str:
    """``"cpu"``, ``"tpu"`` or ``"gpu"``: of the mesh in context, else what JAX computes on."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return (device.platform if device is not None else None) or jax.default_backend()


def managed() -> set[str]:
    """Axes of the mesh in context that the compiler manages; empty without a mesh, or where nothing is cut."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return set()
    found = {name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind == AxisType.Auto}
    return found if any(mesh.shape[name] > 1 for name in found) else set()


def constrain_tree(tree: Any, *names: str | None) -> Any:
    """:func:`constrain` for every leaf that has so many dimensions; the others stay as they are."""
    return jax.tree.map(lambda leaf: constrain(leaf, *names) if leaf.ndim >= len(names) else leaf, tree)


def shards(name: str, size: int) -> int:
    """In how many parts a dimension of ``size`` falls; 1 without a mesh."""
    sizes, parts = _axis_sizes(), 1
    for axis in _fitting(size, name, sizes):
        parts *= sizes[axis]
    return parts


def _axis_sizes() -> dict[str, int]:
    """Axes of :func:`managed` that are longer than 1."""
    shape = jax.sharding.get_abstract_mesh().shape
    return {name: shape[name] for name in managed() if shape[name] > 1}


def _fitting(size: int, name: str | None, sizes: dict[str, int]) -> tuple[str, ...]:
    """The axes of a name that divide a dimension, one after the other."""
    kept: list[str] = []
    for axis in NAMES[name] if name else ():
        if axis in sizes and size % sizes[axis] == 0:
            kept.append(axis)
            size //= sizes[axis]
    return tuple(kept)


def _entries(shape: tuple[int, ...], names: tuple[str | None, ...], sizes: dict[str, int]) -> list[Any]:
    axes = [_fitting(size, name, sizes) for size, name in zip(shape, names, strict=False)]
    return [kept if len(kept) > 1 else kept[0] if kept else None for kept in axes]
