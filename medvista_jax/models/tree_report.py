"""What a checkpoint holds and what would go where on a mesh, as text; from headers alone."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medvista_jax.models.examine import examine
from medvista_jax.models.names import flatten
from medvista_jax.models.tensor_files import TensorFiles
from medvista_jax.runtime.mesh import abstract_mesh, describe
from medvista_jax.runtime.sharding import Placement, accidents, tree_placements

REPLICATED_BYTES = 2**20
"""Leaves below this size are not worth a word when they are replicated."""

Tree = Mapping[str, Any]
"""Nested dicts with :class:`Placement` leaves."""


def report(
    folder: str | Path, sizes: Mapping[str, int] | None = None, dtype: np.dtype | None = None, depth: int | None = None
) -> str:
    """Tree, shapes, bytes and places of a hub folder's parameters. No weight is read, no device is needed.

    Args:
      sizes: mesh axis -> size; without a mesh nothing is said about places.
      dtype: what the parameters would be loaded as; as on disk when left out.
      depth: levels of the tree to show; all when left out.

    Raises:
      BadCheckpoint: see :func:`medvista_jax.models.hub.load`.
      MeshError: sizes that make no sense.
    """
    mesh = abstract_mesh(sizes or {})
    with TensorFiles(folder) as files:
        found = examine(files)
        stored = sum(tensor.nbytes for tensor in files.tensors.values())
    tree = tree_placements(found.family.params().RULES, found.abstract_params(dtype), mesh)
    leaves = jax.tree.leaves(tree)
    number = sum(math.prod(leaf.shape) for leaf in leaves)
    head = [
        f"{found.family.architectures[0]} in {files.folder}",
        f"{len(files.files)} file{'s' * (len(files.files) > 1)} with {amount(stored)} of tensors on disk",
        f"{number:,} parameters in {len(leaves)} leaves, {amount(sum(leaf.nbytes for leaf in leaves))}"
        f" as {dtype.name if dtype else 'stored'}",
    ]
    if sizes:
        each = amount(sum(leaf.nbytes_per_device for leaf in leaves))
        head.append(f"mesh {describe(mesh.shape)}: {each} on each of {mesh.size} devices")
    lines = [*head, "", *_table(list(_rows(tree, depth)), places=bool(sizes))]
    if sizes:
        lines += ["", *_accident_lines(tree, mesh)]
    return "\n".join(lines)


def amount(nbytes: int) -> str:
    """Bytes for people: ``37 B``, ``1.50 KiB``, ``4.04 GiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= size:
            return f"{nbytes / size:,.2f} {unit}"
    return f"{nbytes} B"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table; ``leaf`` is ``None`` for a branch."""

    name: str
    nbytes: int
    per_device: int
    leaf: Placement | None = None


def _rows(tree: Tree, depth: int | None, level: int = 0) -> Iterator[Row]:
    """The tree line by line. Branches that differ in nothing but their number share their lines."""
    if depth is not None and level >= depth:
        return
    indent = "  " * level
    for names, value in _alike(tree):
        label = names[0]
        while not isinstance(value, Placement) and len(value) == 1:
            ((name, value),) = value.items()
            label += f"/{name}"
        if len(names) > 1:
            label += f" … {names[-1]} ({len(names)} alike, each)"
        if isinstance(value, Placement):
            yield Row(indent + label, value.nbytes, value.nbytes_per_device, value)
            continue
        leaves = flatten(value).values()
        total, share = sum(leaf.nbytes for leaf in leaves), sum(leaf.nbytes_per_device for leaf in leaves)
        yield Row(f"{indent}{label}/", total, share)
        yield from _rows(value, depth, level + 1)


def _alike(tree: Tree) -> Iterator[tuple[list[str], Any]]:
    """Children in natural order (``layer_2`` before ``layer_10``); neighbours of one kind together."""
    group: list[str] = []
    for name in sorted(tree, key=_natural):
        if group and not (_stem(name) == _stem(group[0]) and _kind(tree[name]) == _kind(tree[group[0]])):
            yield group, tree[group[0]]
            group = []
        group.append(name)
    if group:
        yield group, tree[group[0]]


def _natural(name: str) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _stem(name: str) -> str:
    """The name without its number; itself when it has none, so that ``q`` and ``k`` stay apart."""
    return re.sub(r"\d+$", "#", name)


def _kind(value: Any) -> Any:
    leaves = {"": value} if isinstance(value, Placement) else flatten(value)
    return {path: (leaf.shape, leaf.dtype, leaf.spec, leaf.dropped) for path, leaf in leaves.items()}


def _table(rows: list[Row], places: bool) -> list[str]:
    cells = [("leaf", "shape", "dtype", "bytes", "split", "a device")]
    for row in rows:
        shape, kind, split = "", "", ""
        if row.leaf is not None:
            shape, kind = str(list(row.leaf.shape)), row.leaf.dtype.name
            split = " × ".join("+".join(e) if isinstance(e, tuple) else e or "·" for e in row.leaf.spec)
        cells.append((row.name, shape, kind, amount(row.nbytes), split, amount(row.per_device)))
    columns = 6 if places else 4
    widths = [max(len(line[i]) for line in cells) for i in range(columns)]
    right = (3, 5)
    return [
        "  ".join(line[i].rjust(widths[i]) if i in right else line[i].ljust(widths[i]) for i in range(columns)).rstrip()
        for line in cells
    ]


def _accident_lines(tree: Tree, mesh: Any) -> list[str]:
    found = accidents(tree, mesh, REPLICATED_BYTES)
    if not found:
        return [f"Every leaf of {amount(REPLICATED_BYTES)} or more is split as its rule says."]
    lines = [f"Split less than the mesh allows, {amount(REPLICATED_BYTES)} or more:"]
    for leaf, why in found:
        times = mesh.size // mesh.shape["data"] // leaf.parts
        lines.append(
            f"  {leaf.path}  {list(leaf.shape)}  {amount(leaf.nbytes_per_device)} a device, {times} times: {why}"
        )
    return lines
