"""What a tool is: a spec beside a pure kernel for one row; the environment vmaps it over the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.tool_text import IMAGE_TEXT, NUMBERS, check_text
from medvista_jax.core.types import Array, Fault, View, Views

EFFECT_VALUES = 8
"""Numbers that an effect can be called with, N."""


@struct.dataclass
class Originals:
    """The original images of one question: :class:`medvista_jax.core.types.ImageBank` without its batch axis."""

    pixels_OYXC: Array
    window_O2: Array
    count: Array
    size_O2: Array
    spacing_O2: Array
    rescale_O2: Array


@struct.dataclass
class Sight:
    """All that a kernel can see: images. No answer, no question, no policy (promise 4).

    Attributes:
      view: the image that the call's ``image_index`` names, the first image where it has none; leaves without
        leading axes.
      views: every image of the row, leaves ``[I, …]``, and ``count_B`` a scalar.
      originals: what the views are recipes over.
      shown_hwC: float32 levels 0…255 of ``view`` as the policy sees it, for tools with ``sees``; else None.
    """

    view: View
    views: Views
    originals: Originals
    shown_hwC: Array | None = None


@struct.dataclass
class Outcome:
    """What a call leads to. ``fault`` other than NONE means that the rest is not to be used.

    Attributes:
      fault: int32 :class:`Fault`.
      view: recipe of the image that is returned, for tools that return one.
      values_N: float32 ``[N]`` with which the tool's own effect is stacked on it.
      text: int32, which of the tool's texts is said.
      numbers_N: float32 ``[NUMBERS]`` that the text shows.
    """

    fault: Array
    view: View
    values_N: Array
    text: Array
    numbers_N: Array


Kernel = Callable[[Array, Sight], Outcome]
"""``(arguments_A int32, sight) -> Outcome``, for one row."""

Effect = Callable[[Array, Array, View, Originals], Array]
"""``(levels_hwC, values_N, view, originals) -> levels_hwC``: float32 levels 0…255 before and after, for one row."""


@dataclasses.dataclass(frozen=True)
class Tool:
    """A spec beside its kernel; hashable, so static under jit. The decorators of ``tools.define`` make it.

    Attributes:
      kernel: what a call does.
      effect: what is done to the displayed levels of a view that this tool returned, each time it is rendered.
      texts: what it can say, with the slots of :mod:`medvista_jax.core.tool_text`; the kernel chooses one.
      image: whether a call returns an image.
      reads: whether the kernel reads original pixels. Such kernels run only when a row of the batch asks.
      sees: whether the kernel wants ``Sight.shown_hwC``.
    """

    spec: ToolSpec
    kernel: Kernel
    effect: Effect | None = None
    texts: tuple[str, ...] = (IMAGE_TEXT,)
    image: bool = True
    reads: bool = False
    sees: bool = False

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError(f"tool {self.spec.name!r} has nothing to say: give it a text")
        for text in self.texts:
            check_text(text, NUMBERS)

    @property
    def name(self) -> str:
        return self.spec.name


def view_at(views: Views, index: Array) -> tuple[View, Array]:
    """View ``index`` of a row, and a fault where there is no such image."""
    exists = (index >= 0) & (index < views.count_B)
    at = jnp.clip(index, 0, views.view.blend.shape[0] - 1)
    fault = jnp.where(exists, int(Fault.NONE), int(Fault.NO_SUCH_IMAGE)).astype(jnp.int32)
    return jax.tree.map(lambda leaf: leaf[at], views.view), fault
