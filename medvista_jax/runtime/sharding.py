"""Where every leaf of a tree goes on a mesh. Rules are (regex on the path, PartitionSpec); the first that fits counts.

    RULES = (
        (r"/(q|k|v|gate|up)/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"/(o|down)/kernel$", PartitionSpec("tensor", "fsdp")),
    )
    shardings = tree_shardings(RULES, jax.eval_shape(model.init, key), mesh)

A leaf that no rule finds is replicated. So is a dimension that the mesh's axis does not divide: vocabularies and head
counts are what they are. Both are correct and can be costly; :func:`accidents` lists them.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from medvista_jax.runtime.mesh import AXES

Rules = Sequence[tuple[str, PartitionSpec | tuple[PartitionSpec, ...]]]
"""(regex, where to), or several places: the first whose axes all divide counts, the first of all where none does."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """What becomes of one leaf.

    Attributes:
      path: keys of the tree with ``/`` between them.
      shape, dtype: of the whole leaf.
      spec: an entry for every dimension; only axes of the mesh that divide it.
      parts: into how many slices the leaf falls.
      rule: the regex that was found, ``None`` when there was none.
      dropped: axes that the rule names and that do not divide their dimension, as ``fsdp∤151``.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    spec: PartitionSpec
    parts: int
    rule: str | None
    dropped: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def nbytes_per_device(self) -> int:
        return self.nbytes // self.parts


def place(path: str, leaf: Any, rules: Rules, mesh: Mesh | AbstractMesh) -> Placement:
    """The placement of one leaf (anything with ``shape`` and ``dtype``).

    Raises:
      ValueError: the rule has more entries than the leaf has dimensions, or an axis that no mesh has.
    """
    rule, wanted = next(((r, s) for r, s in rules if re.search(r, path)), (None, PartitionSpec()))
    choices = (wanted,) if isinstance(wanted, PartitionSpec) else wanted
    placements = [_place(path, leaf, rule, choice, mesh) for choice in choices]
    return next((placement for placement in placements if not placement.dropped), placements[0])


def _place(path: str, leaf: Any, rule: str | None, wanted: PartitionSpec, mesh: Mesh | AbstractMesh) -> Placement:
    shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)
    if len(wanted) > len(shape):
        raise ValueError(f"the sharding rule {rule!r} has {len(wanted)} entries, {path} has shape {shape}")
    entries: list[Any] = []
    dropped: list[str] = []
    parts = 1
    for size, entry in zip(shape, (*wanted, *(None,) * (len(shape) - len(wanted))), strict=True):
        kept: list[str] = []
        slices = 1
        for axis in entry if isinstance(entry, tuple) else (entry,) if entry else ():
            if axis not in AXES and axis not in mesh.shape:
                raise ValueError(f"the sharding rule {rule!r} names the axis {axis!r}; the axes are {', '.join(AXES)}")
            count = mesh.shape.get(axis, 1)
            if size % (slices * count):
                dropped.append(f"{axis}∤{size}")
            elif count > 1:
                kept.append(axis)
                slices *= count
        parts *= slices
        entries.append(tuple(kept) if len(kept) > 1 else kept[0] if kept else None)
    return Placement(path, shape, dtype, PartitionSpec(*entries), parts, rule, tuple(dropped))


def tree_placements(rules: Rules, tree: Any, mesh: Mesh | AbstractMesh) -> Any:
    """A tree of :class:`Placement` for a tree of arrays or ``ShapeDtypeStruct``; see :func:`place`."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: place(_text(path), leaf, rules, mesh), tree)


def as_returned(spec: PartitionSpec) -> PartitionSpec:
    """The specification as compiled programs hand it back: nothing behind the last axis. A step called with another
    spelling of the same layout would be compiled again for its own results."""
    entries = list(spec)
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def tree_shardings(rules: Rules, tree: Any, mesh: Mesh) -> Any:
    """A tree of ``NamedSharding``, for ``jax.jit``'s shardings or ``jax.device_put``; see :func:`place`."""
    where = lambda placement: NamedSharding(mesh, as_returned(placement.spec))  # noqa: E731
    return jax.tree.map(where, tree_placements(rules, tree, mesh))


def accidents(placements: Any, mesh: Mesh | AbstractMesh, at_least: int = 2**20) -> list[tuple[Placement, str]]:
    """Leaves of ``at_least`` bytes that are not cut as finely as they might be, and nobody said so; the largest first.

    A rule that gives an empty ``PartitionSpec`` says so. Copies along ``data`` are what that axis is for.

    Args:
      placements: what :func:`tree_placements` gives.

    Returns:
      The placements with the reason in words.
    """
    if math.prod(size for axis, size in mesh.shape.items() if axis != "data") == 1:
        return []
    found = [
        (placement, f"not divisible: {', '.join(placement.dropped)}" if placement.rule else "no rule")
        for placement in jax.tree.leaves(placements)
        if placement.nbytes >= at_least and (placement.rule is None or placement.dropped)
    ]
    return sorted(found, key=lambda pair: -pair[0].nbytes_per_device)


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
