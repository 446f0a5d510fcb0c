"""Questions about images in files, in the shape in which the atlas hands out its own."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import os
import string
import threading
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvista_jax.data.canvas import Box
from medvista_jax.data.files.choose import Frames, Slices
from medvista_jax.data.files.image import BadFile, MedicalImage, Pair
from medvista_jax.data.files.load import load_images
from medvista_jax.data.files.tables import Columns, Row, RowGroups, find_tables, read_rows
from medvista_jax.text.normalise import normalise

CACHE_BYTES = 2**28
"""Decoded pixels that stay in memory between uses, for all items of one call."""


@dataclasses.dataclass(frozen=True)
class FileItem:
    """One question; the attributes of ``AtlasItem`` but ``concepts``, which files have not.

    Attributes:
      id: of the table, else "family/number".
      family: name of the data set.
      question: text, with the options where there are some.
      options: every possible answer, empty for an open question.
      answer: one of ``options``, or what the table says.
      answer_type: of the table, "" where it has none.
      source: where it stands: table and row.
      load: reads the images; kept a while, see :func:`read_questions`.
      needs, targets, good_window: unknown: "", () and None.
    """

    id: str
    family: str
    question: str
    options: tuple[str, ...]
    answer: str
    answer_type: str
    source: str
    load: Callable[[], tuple[MedicalImage, ...]] = dataclasses.field(repr=False, compare=False)
    needs: str = ""
    targets: tuple[Box, ...] = ()
    good_window: tuple[int, int] | None = None

    @property
    def images(self) -> tuple[MedicalImage, ...]:
        """One or more, in the row's order. Raises BadFile with the row's place."""
        return self.load()

    @property
    def pixels(self) -> np.ndarray:
        """uint8 or uint16 ``[Y, X, C]`` of the first image."""
        return self.images[0].pixels_YXC

    @property
    def window(self) -> Pair:
        """(black, white) of the first image, in stored units."""
        return self.images[0].window

    @property
    def modality(self) -> str:
        """DICOM's code of the first image, "" where it has none."""
        return self.images[0].modality


class _Cache:
    """Decoded files, the least recently used ones dropped beyond ``size`` bytes. Threads may share it."""

    def __init__(self, size: int) -> None:
        self._size, self._used, self._lock = size, 0, threading.Lock()
        self._kept: collections.OrderedDict[Hashable, tuple[MedicalImage, ...]] = collections.OrderedDict()

    def get(self, key: Hashable, read: Callable[[], tuple[MedicalImage, ...]]) -> tuple[MedicalImage, ...]:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        images = read()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = images
                self._used += _bytes(images)
            while self._used > self._size:
                self._used -= _bytes(self._kept.popitem(last=False)[1])
        return images


def _bytes(images: Sequence[MedicalImage]) -> int:
    return sum(image.pixels_YXC.nbytes for image in images)


def read_questions(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    columns: Columns | None = None,
    split: str | None = None,
    family: str | None = None,
    letters: bool = False,
    frames: Frames = None,
    slices: str | Slices = "axial",
    problems: list[str] | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> list[FileItem]:
    """Questions of a folder, a table or parquet shards; see ``tables.find_tables`` for what ``source`` may be.

    An image cell holds a path relative to the table's folder, the bytes of a file, the hub's ``{"bytes", "path"}``,
    or a list of these; in CSV a list is JSON or has ``|`` between its parts. Options are a list or letter to text
    (in CSV likewise). With options the answer may be an option's text, its letter, or a number that counts from 0
    where no option reads so; it becomes the text. Options that the question does not name are added to it.

    Text is in memory, images are not: they are read when an item is asked for them, and ``cache_bytes`` of decoded
    pixels are kept, with at most two row groups of parquet. Going through items in order reads everything once;
    shuffled access to parquet reads a row group an item.

    Args:
      columns: names of columns, see ``tables.Columns``.
      split: which shards of a folder of parquet.
      family: by default the name of the folder or table.
      letters: options get letters, and the letter is the answer: for options longer than an answer may be.
      frames, slices: of every image unless a row has its own, see ``load.load_images``.
      problems: rows that cannot be used are left out and described here; without it the first one raises.

    Raises:
      BadFile: a source, table or column that is missing, or a row that cannot be used: file, row, column and reason.
    """
    columns = columns or Columns()
    tables = find_tables(source, split)
    family = family or _family(source, tables)
    groups, cache = RowGroups(), _Cache(cache_bytes)
    items: list[FileItem] = []
    seen: set[str] = set()
    number = 0
    for table in tables:
        for row in read_rows(table, columns, groups):
            try:
                item = _item(row, f"{family}/{number:06d}", family, letters, frames, slices, cache)
                if item.id in seen:
                    raise BadFile(f"{row.place}: the id {item.id!r} stands for the second time")
                seen.add(item.id)
                items.append(item)
            except BadFile as error:
                if problems is None:
                    raise
                problems.append(str(error))
            number += 1
    return items


def _family(source: Any, tables: Sequence[Path]) -> str:
    if isinstance(source, (str, os.PathLike)) and Path(source).is_dir():
        return Path(source).resolve().name
    return tables[0].stem if len(tables) == 1 else tables[0].resolve().parent.name


def _item(
    row: Row, number: str, family: str, letters: bool, frames: Frames, slices: str | Slices, cache: _Cache
) -> FileItem:
    if row.fault:
        raise BadFile(f"{row.place}: {row.fault}")
    question, answer = (_text(row, field) for field in ("question", "answer"))
    options: tuple[str, ...] = ()
    if row.values.get("options") not in (None, "", [], {}):
        question, options, answer = _choices(row, question, answer, letters)
    frames = row.values.get("frames") if row.values.get("frames") not in (None, "") else frames
    slices = str(row.values["slices"]) if row.values.get("slices") not in (None, "") else slices
    if not row.lazy:
        _references(row)  # a missing file shows now
    return FileItem(
        id=_text(row, "id") if row.values.get("id") not in (None, "") else number,
        family=family,
        question=question,
        options=options,
        answer=answer,
        answer_type=str(row.values.get("answer_type") or ""),
        source=row.place,
        load=functools.partial(_load, row, frames, slices, cache),
    )


def _text(row: Row, field: str) -> str:
    value = row.values.get(field)
    where = f"{row.place}, column {row.column[field]!r}"
    if value is None or value != value or (isinstance(value, str) and not value.strip()):  # NaN differs from itself
        raise BadFile(f"{where}: is empty")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (int, float)):
        return str(value)
    if not isinstance(value, str):
        raise BadFile(f"{where}: holds a {type(value).__name__} where text is wanted; name another column")
    return value.strip()


def _parts(value: Any) -> Any:
    """A cell of CSV as the list or object that it spells; anything else as it is."""
    if not isinstance(value, str):
        return value
    if value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            pass  # text that happens to begin so
    return value.split("|")


def _choices(row: Row, question: str, answer: str, letters: bool) -> tuple[str, tuple[str, ...], str]:
    """The question with its options, the possible answers, and the true one."""
    where = f"{row.place}, column {row.column['options']!r}"
    cell = _parts(row.values["options"])
    if isinstance(cell, dict):  # parquet fills keys that other rows have with null
        cell = {key: text for key, text in cell.items() if text is not None}
        keys, texts = [str(key).strip() for key in cell], list(cell.values())
    elif isinstance(cell, (list, tuple)):
        texts = list(cell)
        keys = list(string.ascii_uppercase[: len(texts)])
    else:
        raise BadFile(f"{where}: holds a {type(cell).__name__}; a list, or letter to text, is wanted")
    texts = [str(text).strip() for text in texts]
    if len(texts) < 2 or len(keys) != len(texts) or not all(texts) or len(set(texts)) != len(texts):
        raise BadFile(f"{where}: {texts} are no two to 26 different options")
    place = _place(answer, texts, keys, row.values["answer"])
    if place is None:
        raise BadFile(f"{row.place}, column {row.column['answer']!r}: {answer!r} is none of the options {texts}")
    if letters:
        if not all(
            any(f"{key}{mark} {text}" in question for mark in ".:)") for key, text in zip(keys, texts, strict=True)
        ):
            question = "\n".join([question, *(f"{key}. {text}" for key, text in zip(keys, texts, strict=True))])
        return question, tuple(keys), keys[place]
    if not all(text.lower() in question.lower() for text in texts):
        question = f"{question}\nAnswer with one of: {'; '.join(texts)}."
    return question, tuple(texts), texts[place]


def _place(answer: str, texts: list[str], keys: list[str], cell: Any) -> int | None:
    for spoken in (texts, keys):
        alike = [place for place, text in enumerate(spoken) if normalise(text) == normalise(answer)]
        if answer in spoken:
            return spoken.index(answer)
        if len(alike) == 1:
            return alike[0]
    number = isinstance(cell, int) and not isinstance(cell, bool)
    return cell if number and 0 <= cell < len(texts) else None


def _references(row: Row) -> list[tuple[Hashable, Any, str]]:
    """(key of the cache or None, path or bytes, name) of every image of a row.

    Raises:
      BadFile: no image, a missing file, or something that is neither path nor bytes.
    """
    name = row.column["image"]
    where = f"{row.place}, column {name!r}"
    cell = row.image()
    if isinstance(cell, str):
        listed = name.endswith("s") or cell.lstrip().startswith("[")
        cell = _parts(cell) if listed else [cell]
    cells = cell if isinstance(cell, list) else [cell]
    if not cells or any(part in (None, "", b"") for part in cells):
        raise BadFile(f"{where}: is empty")
    return [_reference(row, where, part) for part in cells]


def _reference(row: Row, where: str, cell: Any) -> tuple[Hashable, Any, str]:
    named = cell
    if isinstance(cell, dict):
        if not {"bytes", "path"} & cell.keys():
            raise BadFile(f"{where}: an object with {', '.join(map(str, cell))}; bytes or path is wanted")
        named = cell.get("path")
        cell = cell.get("bytes") or named
    if isinstance(cell, bytes):
        return None, cell, named if isinstance(named, str) else where
    if not isinstance(cell, str) or not cell.strip():
        raise BadFile(f"{where}: holds a {type(cell).__name__} where a path or bytes are wanted")
    if cell.startswith(("http://", "https://")):
        raise BadFile(f"{where}: {cell} is an address; fetch the image and name its file")
    path = row.table.parent / cell.strip()
    if not path.is_file():
        raise BadFile(f"{where}: {path} is {'a folder; name a file in it' if path.is_dir() else 'missing'}")
    return path, path, str(path)


def _load(row: Row, frames: Frames, slices: str | Slices, cache: _Cache) -> tuple[MedicalImage, ...]:
    part = repr((frames, slices))  # lists are no keys

    def read(reference: tuple[Hashable, Any, str]) -> tuple[MedicalImage, ...]:
        return load_images(reference[1], name=reference[2], frames=frames, slices=slices)

    def read_all() -> tuple[MedicalImage, ...]:
        return tuple(image for reference in _references(row) for image in read(reference))

    try:
        if row.lazy:
            # The row as a whole, so that what is kept needs no row group.
            return cache.get((row.table, row.number, part), read_all)
        kept = [cache.get((one[0], part), functools.partial(read, one)) for one in _references(row)]
        return tuple(image for images in kept for image in images)
    except BadFile as error:
        text = str(error)
        raise BadFile(text if text.startswith(row.place) else f"{row.place}: {text}") from None
