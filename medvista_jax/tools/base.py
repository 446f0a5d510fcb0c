"""What a tool is: a spec and a pure kernel for one row; the environment vmaps it over the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from flax import struct

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Array, Fault


@struct.dataclass
class RowViews:
    """The images of one row: :class:`medvista_jax.core.types.Views` without its batch axis."""

    source_I: Array
    box_I4: Array
    window_I2: Array
    count: Array


@struct.dataclass
class Outcome:
    """What a call leads to. ``fault`` other than NONE means that the rest is not to be used.

    Attributes:
      fault: int32 :class:`Fault`.
      source: int32 original image of the new view.
      box_4: float32 in 0…1 of that original.
      window_2: float32 low, high in stored units.
    """

    fault: Array
    source: Array
    box_4: Array
    window_2: Array


Kernel = Callable[[Array, RowViews], Outcome]


@dataclasses.dataclass(frozen=True)
class Tool:
    """A spec beside its kernel ``(arguments_A int32, views of the row) -> Outcome``; hashable, so static under jit."""

    spec: ToolSpec
    kernel: Kernel

    @property
    def name(self) -> str:
        return self.spec.name


def pick_view(views: RowViews, image_index: Array) -> tuple[Array, Array, Array, Array]:
    """Source, box, window of image ``image_index``, and a fault where there is no such image."""
    exists = (image_index >= 0) & (image_index < views.count)
    at = jnp.clip(image_index, 0, views.source_I.shape[0] - 1)
    fault = jnp.where(exists, int(Fault.NONE), int(Fault.NO_SUCH_IMAGE)).astype(jnp.int32)
    return fault, views.source_I[at], views.box_I4[at], views.window_I2[at]
