"""Tools that miss: a control. A call is carried out beside the place it names, or somewhere else altogether."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Array
from medvista_jax.tools.base import Outcome, Sight, Tool


@dataclasses.dataclass(frozen=True)
class Noise:
    """How a tool misses. The policy is not told.

    Attributes:
      spread: standard deviation of a box's displacement on each axis, in the frame's units (0…1000 of the image).
      wrong: share of calls whose boxes land anywhere.
      seed: of the noise.

    Raises:
      ValueError: a negative spread, or a share outside of 0…1.
    """

    spread: float = 0.0
    wrong: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.spread < 0 or not 0 <= self.wrong <= 1:
            raise ValueError(f"spread {self.spread} must not be negative, wrong {self.wrong} lies in 0…1")


def noisy(tool: Tool, noise: Noise) -> Tool:
    """The same tool, whose boxes are displaced and keep their size; a tool without boxes stays as it is.

    Kernels are pure, so the noise is a hash: of the seed, the call's arguments and the original pixels. The same call
    on the same image misses in the same way; another call, or another image, in another.
    """
    boxes = _box_slots(tool.spec)
    if not boxes or noise == Noise(seed=noise.seed):
        return tool

    def kernel(arguments_A: Array, sight: Sight) -> Outcome:
        key = jax.random.key(noise.seed)
        for part in (_checksum(sight.originals.pixels_OYXC), *arguments_A.astype(jnp.uint32)):
            key = jax.random.fold_in(key, part)
        for at, key_of_box in zip(boxes, jax.random.split(key, len(boxes)), strict=True):
            arguments_A = arguments_A.at[at : at + 4].set(displaced(arguments_A[at : at + 4], noise, key_of_box))
        return tool.kernel(arguments_A, sight)

    return dataclasses.replace(tool, kernel=kernel, reads=True)


def displaced(box_4: Array, noise: Noise, key: Array) -> Array:
    """int32 ``[4]``, the box after a miss, inside the frame, of the same size."""
    key_near, key_far, key_which = jax.random.split(key, 3)
    size_2 = box_4[2:] - box_4[:2]
    room_2 = FRAME - size_2
    near_2 = box_4[:2] + jnp.round(noise.spread * jax.random.normal(key_near, (2,))).astype(jnp.int32)
    far_2 = jnp.floor(jax.random.uniform(key_far, (2,)) * (room_2 + 1)).astype(jnp.int32)
    low_2 = jnp.where(jax.random.uniform(key_which) < noise.wrong, far_2, near_2)
    low_2 = jnp.clip(low_2, 0, room_2)
    return jnp.concatenate([low_2, low_2 + size_2])


def _box_slots(spec: ToolSpec) -> list[int]:
    """Where each box begins among the argument slots."""
    starts, at = [], 0
    for argument in spec.arguments:
        if argument.kind == "box":
            starts.append(at)
        at += argument.width
    return starts


def _checksum(pixels_OYXC: Array) -> Array:
    """uint32, of every fourth pixel a side; weighted by its place, since mirrored images have the same sum."""
    some = pixels_OYXC[:, ::4, ::4].astype(jnp.uint32).ravel()
    return jnp.sum(some * (2 * jnp.arange(some.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)
