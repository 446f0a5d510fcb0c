"""Trajectory files: one JSON object a line, images in the folder ``images`` beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
from PIL import Image

from medvista_jax.data.files import BadFile
from medvista_jax.data.trajectories.record import BadRecord, ImageRef, Record, from_json, to_json, with_images

IMAGES = "images"


def encode_pixels(pixels_YXC: np.ndarray) -> bytes:
    """A PNG file of uint8 or uint16 grey, or uint8 colour; nothing is lost.

    Raises:
      ValueError: colour of 16 bits, which PNG files of Pillow do not hold.
    """
    if pixels_YXC.shape[2] == 3 and pixels_YXC.dtype == np.uint16:
        raise ValueError("colour of 16 bits cannot be kept in a PNG file; bring it to 8 bits first")
    file = io.BytesIO()
    Image.fromarray(pixels_YXC[..., 0] if pixels_YXC.shape[2] == 1 else pixels_YXC).save(file, "PNG")
    return file.getvalue()


class Writer:
    """Writes records, a line each, and their images once each, named by their content.

    A line is there as a whole or not at all once :meth:`write` has returned; what a run that was killed left of one is
    cut off when the file is opened to go on.

    Args:
      path: of the file.
      append: go on with what is there; else a file that is there is replaced.
      images: "copy" puts files into the folder of images, so that file and folder can be moved; "link" names them where
        they are, relative to the trajectory file.
    """

    def __init__(self, path: str | os.PathLike, append: bool = False, images: Literal["copy", "link"] = "copy") -> None:
        self.path = Path(path)
        self.count = 0
        self._images = images
        self._names: dict[str, str] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if append and self.path.exists():
            cut_torn_line(self.path)
        self._file = open(self.path, "a" if append else "w", encoding="ascii")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def write(self, record: Record) -> None:
        """Adds a record.

        Raises:
          BadFile: a file of an image that is missing.
        """
        # ASCII: what a policy writes may be no Unicode that UTF-8 could hold.
        line = json.dumps(to_json(with_images(record, self._keep)))
        self._file.write(line + "\n")
        self._file.flush()
        self.count += 1

    def _keep(self, image: ImageRef) -> ImageRef:
        if image.data is None and self._images == "link":
            return dataclasses.replace(image, file=os.path.relpath(image.file, self.path.parent))
        if image.data is None and image.file in self._names:
            return dataclasses.replace(image, file=self._names[image.file])
        data = image.data if image.data is not None else _read_bytes(image.file)
        suffix = "".join(Path(image.file).suffixes[-2:]) if image.file.endswith(".gz") else Path(image.file).suffix
        name = f"{IMAGES}/{hashlib.sha256(data).hexdigest()[:20]}{suffix or '.png'}"
        place = self.path.parent / name
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            half = place.with_name(place.name + ".part")
            half.write_bytes(data)
            half.replace(place)
        if image.data is None:
            self._names[image.file] = name
        return dataclasses.replace(image, file=name, data=None)


def _read_bytes(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise BadFile(f"{file}: cannot be read: {error.strerror or error}") from None


def cut_torn_line(path: Path) -> None:
    """Removes what follows the last line break: a line that was being written when its writer was killed."""
    with open(path, "rb+") as file:
        end = file.seek(0, os.SEEK_END)
        at = end
        while at > 0:
            begin = max(0, at - 65536)
            file.seek(begin)
            found = file.read(at - begin).rfind(b"\n")
            if found >= 0:
                file.truncate(begin + found + 1)
                return
            at = begin
        file.truncate(0)


def read_records(
    path: str | os.PathLike,
    problems: list[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Record]:
    """The records of a file in order, one at a time, however large it is. Images are read when they are asked for.

    Args:
      problems: lines that are no record are left out and described here; without it the first one raises.
      progress: called with bytes read and bytes in all, after every line.

    Raises:
      BadFile: no such file, or a line that is no record: file, line, part and reason.
    """
    path = Path(path)
    try:
        total = path.stat().st_size
        file = open(path, "rb")
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    done = 0
    with file:
        for number, line in enumerate(file, 1):
            done += len(line)
            if line.strip():
                try:
                    yield _read_line(line, path.parent)
                except BadRecord as error:
                    text = f"{path}, line {number}: {error}"
                    if problems is None:
                        raise BadFile(text) from None
                    problems.append(text)
            progress(done, total)


def _read_line(line: bytes, folder: Path) -> Record:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        cut = "" if line.endswith(b"\n") else " (the line is cut short; was its writer stopped?)"
        raise BadRecord(f"no JSON: {error}{cut}") from None
    return from_json(value, folder)


def keep_lines(path: Path, count: int) -> None:
    """Cuts a file behind its first ``count`` lines; nothing where there is no file."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        for _ in range(count):
            if not file.readline():
                return
        file.truncate(file.tell())
