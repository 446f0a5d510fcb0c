"""Questions with their images and answers, from wherever they come.

``medvista_jax.data`` is imported inside of functions: it stands above this room (its lessons play in the gym), and who
brings questions of their own needs nothing of it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from medvista_jax.text.normalise import normalise

ATLAS_ITEMS = 1024
"""Questions of the atlas that a sequence offers unless told otherwise; it could go on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """One original image.

    Attributes:
      pixels_YXC: uint8 or uint16, C is 1 (grey) or 3 (red, green, blue).
      window: (black, white) in stored units.
      rescale: (slope, intercept), ``physical = stored * slope + intercept``.
      spacing: (row, column) millimetres, None where unknown.
    """

    pixels_YXC: np.ndarray
    window: tuple[float, float]
    rescale: tuple[float, float] = (1.0, 0.0)
    spacing: tuple[float, float] | None = None

    @classmethod
    def of(cls, image: Any) -> Picture:
        """An array ``[Y, X]`` or ``[Y, X, C]``, a Pillow image, or anything with these attributes as it is.

        The window of an array is all of uint8, and lowest to highest value of uint16.

        Raises:
          ValueError: another type, another number of channels, no pixel.
        """
        if hasattr(image, "pixels_YXC"):
            return image
        if isinstance(image, Image.Image):
            image = image if image.mode in ("L", "RGB", "I;16") else image.convert("RGB")
        pixels = np.asarray(image)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise ValueError(f"an image of shape {list(pixels.shape)}; [Y, X], [Y, X, 1] or [Y, X, 3] is wanted")
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"an image of {pixels.dtype}; uint8 or uint16 is wanted")
        low, high = (0.0, 255.0) if pixels.dtype == np.uint8 else (float(pixels.min()), float(pixels.max()))
        return cls(pixels, (low, max(high, low + 1.0)))


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """A question of a user's own.

    Attributes:
      question, answer: text; an answer is right when it is this one in the normal form of
        :mod:`medvista_jax.text.normalise`.
      images: one or more, see :meth:`Picture.of`.
      id, family: names, for records.
      options: every possible answer, for records; the question has to name them.
    """

    question: str
    answer: str
    images: Sequence[Any]
    id: str = ""
    family: str = ""
    options: tuple[str, ...] = ()


class AnyItem(Protocol):
    """What is asked of a question: an :class:`Item`, or an item of :mod:`medvista_jax.data`.

    The images stand in ``images``, or one of them in ``pixels`` (uint8 or uint16 ``[Y, X, C]``) and ``window``.
    """

    @property
    def id(self) -> str: ...

    @property
    def question(self) -> str: ...

    @property
    def answer(self) -> str: ...


def pictures_of(item: AnyItem) -> tuple[Picture, ...]:
    """The originals of a question; of a file they are read here.

    Raises:
      ValueError: there is none, or one that cannot be used; named by the item.
    """
    try:
        images = item.images if hasattr(item, "images") else [Picture(item.pixels, item.window)]
        pictures = tuple(Picture.of(image) for image in images)
    except (AttributeError, ValueError) as error:
        raise ValueError(f"item {item.id!r}: {error}") from None
    if not pictures:
        raise ValueError(f"item {item.id!r} has no image")
    return pictures


class AtlasItems(Sequence):
    """The first ``count`` questions of the packaged atlas, equal shares of each family; one is drawn when asked for."""

    def __init__(self, split: str, count: int, families: Sequence[str] | None = None) -> None:
        from medvista_jax.data.atlas import Atlas

        self._atlas = Atlas(split, families)
        self._plan = self._atlas.plan(count)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> Any:
        return self._atlas.item(*self._plan[index])

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


def find_items(
    source: str | os.PathLike | Sequence[AnyItem],
    split: str | None = None,
    count: int | None = None,
    families: Sequence[str] | None = None,
    problems: list[str] | None = None,
) -> Sequence[AnyItem]:
    """Questions by name.

    Args:
      source: ``"atlas"``, what :func:`medvista_jax.data.files.read_questions` reads, or questions.
      split: of the atlas ("test" by default), or of a folder of parquet.
      count: the first so many; of the atlas 1024 by default, else all.
      families: of the atlas; of other sources those whose ``family`` is named.
      problems: rows of a file that cannot be used are described here; without it the first one raises.

    Raises:
      ValueError: no question, an unknown split or family, a bad file, an answer that no reply could match.
    """
    if count is not None and count < 1:
        raise ValueError(f"{count} items; at least one is needed")
    if isinstance(source, str) and source == "atlas":
        return AtlasItems(split or "test", ATLAS_ITEMS if count is None else count, families)
    if isinstance(source, str | os.PathLike):
        from medvista_jax.data.files import read_questions

        if not Path(source).exists():
            raise ValueError(f"no questions at {source}: 'atlas', a folder or a table is wanted")
        items: Sequence[AnyItem] = read_questions(source, split=split, problems=problems)
    else:
        items = source
    if families is not None:
        items = [item for item in items if getattr(item, "family", "") in families]
    items = items if count is None else items[:count]
    if not len(items):
        raise ValueError(f"no questions in {source if isinstance(source, str | os.PathLike) else 'the sequence'}")
    for item in items:
        if not normalise(item.answer):
            raise ValueError(f"item {item.id!r}: the answer {item.answer!r} has no letter and no digit to compare")
    return items
