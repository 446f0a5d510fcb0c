"""Which tensor of a hub checkpoint is which leaf of our parameters, and how one is turned into the other.

A family gives a table of :class:`Entry`, one a leaf, that is read in both directions. ``path`` is the leaf's place in
the nested dicts with ``/`` between the keys; ``hub`` is the tensor's name *on disk*, which is what counts: transformers
may call it otherwise in memory.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Index = tuple[slice, ...]
"""A slice for every axis, with or without bounds, steps of one: what a sharding says of a device's part."""


class Layout(enum.Enum):
    """How a hub tensor and our leaf lie to each other."""

    SAME = "same"  # element by element
    LINEAR = "linear"  # torch's weight [out, in], our kernel [in, out]
    PATCHES = "patches"  # torch's convolution [out, channels, *window], our kernel [channels * window, out]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One leaf.

    Attributes:
      hub: the tensor's name on disk.
      path: the leaf's place, such as ``decoder/layer_0/q/kernel``.
      layout: how the two lie to each other.
      hub_shape: shape on disk; needed for ``PATCHES``, whose window our kernel no longer shows.
      aliases: other names that the same tensor has in older checkpoints; never written.
    """

    hub: str
    path: str
    layout: Layout = Layout.SAME
    hub_shape: tuple[int, ...] | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.layout is Layout.PATCHES and (self.hub_shape is None or len(self.hub_shape) < 3):
            raise ValueError(f"{self.path}: PATCHES needs hub_shape (out, channels, *window), not {self.hub_shape}")


def shape_on_disk(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the hub tensor, given the shape of our leaf.

    Raises:
      ValueError: a ``LINEAR`` or ``PATCHES`` leaf that is no matrix, or one that ``hub_shape`` contradicts.
    """
    if entry.layout is Layout.SAME:
        return tuple(shape)
    _matrix(entry, shape)
    if entry.layout is Layout.LINEAR:
        return shape[1], shape[0]
    if shape_of_leaf(entry, entry.hub_shape) != tuple(shape):
        raise ValueError(f"{entry.path}: a leaf of shape {tuple(shape)} is no window of {entry.hub_shape} on disk")
    return entry.hub_shape


def shape_of_leaf(entry: Entry, hub_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of our leaf, given the shape of the hub tensor.

    Raises:
      ValueError: a ``LINEAR`` tensor that is no matrix, or a ``PATCHES`` tensor without a window.
    """
    if entry.layout is Layout.SAME:
        return tuple(hub_shape)
    if entry.layout is Layout.LINEAR:
        _matrix(entry, hub_shape)
    elif len(hub_shape) < 3:
        raise ValueError(f"{entry.hub}: a convolution has at least 3 axes, not shape {tuple(hub_shape)}")
    return math.prod(hub_shape[1:]), hub_shape[0]


def to_leaf(entry: Entry, hub: np.ndarray) -> np.ndarray:
    """The hub tensor as our leaf: a view, in which a transposed matrix is not contiguous."""
    if entry.layout is Layout.SAME:
        return hub
    return hub.reshape(hub.shape[0], -1).T


def to_hub(entry: Entry, leaf: np.ndarray) -> np.ndarray:
    """Our leaf as the hub tensor: a view where NumPy can give one."""
    shape = shape_on_disk(entry, leaf.shape)
    return leaf if entry.layout is Layout.SAME else leaf.T.reshape(shape)


def hub_rows(entry: Entry, hub_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape under which the hub tensor's bytes, in row-major order, are our leaf or its transpose."""
    return tuple(hub_shape) if entry.layout is Layout.SAME else (hub_shape[0], math.prod(hub_shape[1:]))


def hub_index(entry: Entry, index: Index) -> Index:
    """Slices of our leaf as slices of the hub tensor seen with the shape :func:`hub_rows`.

    What is read there becomes the slice of the leaf as it is (``SAME``) or transposed (the others).
    """
    return tuple(index) if entry.layout is Layout.SAME else (index[1], index[0])


def transposed(entry: Entry) -> bool:
    """Whether a slice read at :func:`hub_index` has still to be transposed."""
    return entry.layout is not Layout.SAME


def nest(leaves: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """``path -> leaf`` as nested dicts.

    Raises:
      ValueError: a path occurs twice, or is also the way to another leaf.
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items() if isinstance(leaves, Mapping) else leaves:
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                raise ValueError(f"{path}: {folder!r} is a leaf already")
        if name in place:
            raise ValueError(f"{path} occurs twice")
        place[name] = leaf
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as ``path -> leaf``, in the order of the dicts; the reverse of :func:`nest`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _matrix(entry: Entry, shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise ValueError(f"{entry.hub} <-> {entry.path}: {entry.layout.name} needs a matrix, not shape {tuple(shape)}")
