"""What a dialect is: the words in which another project's models call tools and read their results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.tool_spec import ToolSpec

IMAGE = "<image>"
"""Stands in a message where an image belongs."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of a trajectory.

    Attributes:
      width, height: in pixels *as the dialect counts them*: of the un-resized original for DeepEyes, of the view as it
        was shown for Pixel-Reasoner. Dialects with relative coordinates or a frame of their own do not look at them
        but for their limits on size.
      source: index of the image that it was cut from; None for a question's image and where the place is unknown.
      box: where in ``source``: x1, y1, x2, y2 in 0…1000 of it.
    """

    width: int
    height: int
    source: int | None = None
    box: tuple[float, float, float, float] = (0.0, 0.0, float(FRAME), float(FRAME))

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"an image of {self.width}x{self.height} pixels; both sides must be at least 1")


@dataclasses.dataclass(frozen=True)
class Context:
    """What converting a turn needs to know.

    Attributes:
      images: of the trajectory up to this turn, in the order of our image indices: the question's own first, then the
        returned views.
      specs: the registered tools.
      originals: how many of the images are the question's own.
    """

    images: tuple[Picture, ...]
    specs: tuple[ToolSpec, ...]
    originals: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.originals <= len(self.images):
            raise ValueError(f"{self.originals} originals among {len(self.images)} images; at least one must be there")

    def has(self, index: int) -> bool:
        """Whether there is an image of that index."""
        return 0 <= index < len(self.images)

    def add(self, picture: Picture) -> Context:
        """The context after a view has come back."""
        return dataclasses.replace(self, images=(*self.images, picture))


@dataclasses.dataclass(frozen=True)
class Reading:
    """A foreign turn in our words.

    Attributes:
      turn: canonical text: ``<think>…</think>`` and then one call, one answer, or nothing. What the dialect refuses is
        a call that the gym answers with an error.
      notes: what was lost, changed, or would have gone otherwise upstream.
    """

    turn: str
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TextObservation:
    """What the environment says after a turn, pixels aside.

    Attributes:
      text: a tool's words or an error, one of ``text.chat.ERRORS``; empty where there is only an image.
      image: index of the returned image; None for none.
      size: width and height of the returned image, in pixels; None where unknown.
      final: the next turn must answer.
    """

    text: str = ""
    image: int | None = None
    size: tuple[int, int] | None = None
    final: bool = False


class Dialect(Protocol):
    """Both directions of one dialect. Nothing that is *read* can raise, whatever it says.

    A tool that the dialect does not know itself is offered under our name with our schema, our 0…1000 frame included,
    in the dialect's syntax; so it is written and read. A tool that the dialect calls otherwise is unknown there under
    our name. What a dialect cannot say (a zoom into an image it has no words for) is written under our name as well:
    its own environment, and ours, then answers with an error instead of showing another place.
    """

    @property
    def name(self) -> str: ...

    def system_prompt(self, tools: Sequence[ToolSpec]) -> str:
        """How the dialect offers the tools; in our words, with its literals."""
        ...

    def read_turn(self, text: str, context: Context) -> Reading:
        """A foreign turn as a canonical one."""
        ...

    def write_turn(self, turn: str, context: Context) -> str:
        """A canonical turn as a foreign one. A turn that our gym refuses is one that upstream refuses."""
        ...

    def write_observation(self, observation: TextObservation, context: Context) -> str:
        """The text of the message that follows a turn, :data:`IMAGE` for its image."""
        ...

    def read_observation(self, text: str, context: Context) -> TextObservation:
        """Such a message back; ``context`` is the one before the returned image."""
        ...
