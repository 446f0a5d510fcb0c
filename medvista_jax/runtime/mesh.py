"""The grid of devices: ``data`` (copies of the model), ``fsdp`` (slices of it), ``tensor`` (slices of each product)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


class MeshError(ValueError):
    """Axis sizes that make no sense, or do not fit the devices."""


def parse_mesh(text: str) -> dict[str, int]:
    """``"data=1,fsdp=4,tensor=2"`` as axis sizes; axes left out are 1.

    Raises:
      MeshError: an unknown axis, one twice, or a size that is no positive number (-1 means: what is left).
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, size = (piece.strip() for piece in part.partition("="))
        if name in sizes or not size.removeprefix("-").isdigit():
            raise MeshError(f"mesh {text!r}: {part!r} is not axis=size, or the axis occurs twice")
        sizes[name] = int(size)
    return axis_sizes(sizes)


def axis_sizes(sizes: Mapping[str, int], devices: int | None = None) -> dict[str, int]:
    """Sizes of all :data:`AXES`, 1 where left out.

    Args:
      sizes: axis -> size; one may be -1, what is left of the devices.
      devices: how many there are; needed to replace a -1, which stays otherwise.

    Raises:
      MeshError: an unknown axis, a bad size, or a number of devices that the other axes do not divide.
    """
    unknown = [name for name in sizes if name not in AXES]
    if unknown:
        raise MeshError(f"mesh axis {unknown[0]!r} is unknown; the axes are {', '.join(AXES)}")
    whole = {name: int(sizes.get(name, 1)) for name in AXES}
    free = [name for name, size in whole.items() if size == -1]
    if any(size < 1 and size != -1 for size in whole.values()) or len(free) > 1:
        raise MeshError(f"mesh {describe(whole)}: sizes must be at least 1, and only one may be -1 (what is left)")
    if free and devices is not None:
        rest = -math.prod(whole.values())
        if devices % rest:
            raise MeshError(f"mesh {describe(whole)}: {devices} devices cannot be split by {rest}")
        whole[free[0]] = devices // rest
    return whole


def make_mesh(sizes: Mapping[str, int] | None = None, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices of all hosts, or over ``devices``.

    Args:
      sizes: axis -> size, axes left out are 1, one may be -1; all devices on ``fsdp`` when left out.

    Raises:
      MeshError: sizes that make no sense, or whose product is not the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    whole = axis_sizes({"fsdp": -1} if sizes is None else sizes, len(devices))
    wanted = math.prod(whole.values())
    if wanted != len(devices):
        message = f"mesh {describe(whole)} needs {wanted} devices, here are {len(devices)} ({devices[0].platform})"
        if wanted < len(devices):
            raise MeshError(f"{message}; give devices=jax.devices()[:{wanted}] to leave the others idle")
        if devices[0].platform == "cpu":
            message += f"; emulate them with XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        raise MeshError(message)
    # Auto: the compiler places what the rules of runtime/sharding.py leave open.
    types = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(tuple(whole.values()), AXES, axis_types=types, devices=devices)


def abstract_mesh(sizes: Mapping[str, int]) -> AbstractMesh:
    """A mesh without devices: enough to say what would go where.

    Raises:
      MeshError: sizes that make no sense; -1 is one of them, as there is nothing to fill up to.
    """
    whole = axis_sizes(sizes)
    if -1 in whole.values():
        raise MeshError(f"mesh {describe(whole)}: a size of -1 needs devices to count; give a number")
    return AbstractMesh(tuple(whole.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def describe(sizes: Mapping[str, int]) -> str:
    """``data=1,fsdp=4,tensor=2``."""
    return ",".join(f"{name}={size}" for name, size in sizes.items())
