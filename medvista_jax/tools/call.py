"""One call of a tool from outside of an episode: what the tool server and other people's agents ask and get."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medvista_jax.core.types import Fault


@dataclasses.dataclass(frozen=True, eq=False)
class ToolCall:
    """A tool's name, its arguments as JSON has them, and the images that it may name by ``image_index``.

    Attributes:
      name: of the tool.
      arguments: by argument name, unchecked.
      images: uint8 or uint16, [Y, X] or [Y, X, 3].
      spacing: millimetres between rows and between columns, None where unknown.
      rescale: slope and intercept from stored values to units such as HU.
      window: stored values shown black and white; None shows 8-bit images as they are and 16-bit ones from their
        lowest to their highest value.
    """

    name: str
    arguments: Mapping[str, Any]
    images: Sequence[np.ndarray] = ()
    spacing: tuple[float, float] | None = None
    rescale: tuple[float, float] | None = None
    window: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class ToolResult:
    """What came of a call.

    Attributes:
      fault: NONE, or why there is nothing else.
      text: the tool's answer, may be empty beside an image.
      image: uint8 [Y, X, 3] or [Y, X], None for a tool that answers by text.
    """

    fault: Fault
    text: str = ""
    image: np.ndarray | None = None
