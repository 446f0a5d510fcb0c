"""Files of a hub repository: tables row by row, images out of archives, and the download.

Every error is a :class:`BadFile` of one line: which row of which file, what is wrong, how to mend it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import PIL.Image

from medvista_jax.data.files.image import BadFile

Raw = Mapping[str, Any]

_BATCH = 64  # rows of parquet at once: with their images some hundred megabytes at most


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a split, in the order of the patterns, shards by name; none when a pattern matches nothing."""
    found = [sorted(folder.glob(pattern)) for pattern in patterns]
    return [path for paths in found for path in paths] if all(found) else []


def read_rows(path: Path, images: bool = True) -> Iterator[Raw]:
    """The rows of a table, by its suffix: .parquet, .csv, .json (a list) or .jsonl.

    Args:
      path: the file.
      images: False leaves out the columns of parquet that hold images, nearly all of its bytes.

    Raises:
      BadFile: the file is damaged or not what its name says.
    """
    readers = {".csv": _csv, ".json": _json, ".jsonl": _json_lines}
    try:
        yield from _parquet(path, images) if path.suffix == ".parquet" else readers[path.suffix](path)
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise BadFile(f"{path}: cannot be read ({error}); fetch the file again") from error


def _parquet(path: Path, images: bool) -> Iterator[Raw]:
    import pyarrow  # late: the other tables do without
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            # The hub's images are structs of bytes and path, no other column is a struct.
            wanted = [field.name for field in table.schema_arrow if images or not pyarrow.types.is_struct(field.type)]
            for batch in table.iter_batches(_BATCH, columns=wanted):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise BadFile(f"{path}: is damaged or no parquet ({error}); fetch the file again") from error


def _csv(path: Path) -> Iterator[Raw]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _json(path: Path) -> Iterator[Raw]:
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list):
        raise BadFile(f"{path}: holds no list of rows; fetch the file again")
    yield from rows


def _json_lines(path: Path) -> Iterator[Raw]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


class Archive:
    """Images in a zip, by the names the tables use for them, whatever folder of the zip they lie in.

    Raises:
      BadFile: the zip is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except FileNotFoundError:
            raise BadFile(
                f"{path}: is missing; it holds the images. Copy it from the hub (it is not unpacked)"
            ) from None
        except (zipfile.BadZipFile, OSError) as error:
            raise BadFile(f"{path}: is damaged or no zip ({error}); fetch the file again") from error
        self._members: dict[str, str] = {}
        for member in self._zip.namelist():
            if not member.startswith("__MACOSX/"):  # a folder of shadows that macOS adds
                parts = member.split("/")
                for start in range(len(parts)):
                    self._members.setdefault("/".join(parts[start:]), member)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def read(self, name: str, where: str) -> bytes:
        """Bytes of an image.

        Args:
          name: of the table, such as "xmlab1/source.jpg".
          where: row and file, for the message.

        Raises:
          BadFile: the archive has no such member, or it is damaged.
        """
        if not name or name not in self._members:
            raise BadFile(f"{where}: its image {name!r} is not in {self.path}; fetch the archive again")
        try:
            return self._zip.read(self._members[name])
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise BadFile(f"{where}: its image {name!r} in {self.path} is damaged ({error}); fetch it again") from error


@contextlib.contextmanager
def open_archive(path: Path | None) -> Iterator[Archive | None]:
    """The archive, or None for a benchmark that has its images in the tables."""
    if path is None:
        yield None
    else:
        with Archive(path) as archive:
            yield archive


def checked_image(data: bytes | None, where: str, name: str) -> bytes:
    """``data``, if it begins as an image does.

    Raises:
      BadFile: there is none, or it is of no known format; the message has ``where`` and ``name``.
    """
    if not data:
        raise BadFile(f"{where}: {name} is missing; fetch the file again, or leave the row out")
    try:
        with PIL.Image.open(io.BytesIO(data)):
            return data
    except (PIL.UnidentifiedImageError, PIL.Image.DecompressionBombError, OSError) as error:
        raise BadFile(f"{where}: {name} is no image that can be read ({error}); fetch the file again") from error


def download(hub_id: str, patterns: Sequence[str]) -> Path:
    """A local copy of what is needed of a data set's repository on the Hugging Face hub; kept in the hub's cache.

    Args:
      hub_id: such as "BoKelvin/SLAKE".
      patterns: the files that are wanted.

    Raises:
      BadFile: there is no network, or the hub refuses; the message says how to do it by hand.
    """
    import httpx2  # late: both are needed for this alone
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, repo_type="dataset", allow_patterns=list(patterns)))
    except (httpx2.HTTPError, OSError) as error:  # the hub's own errors are OSErrors
        raise BadFile(
            f"{hub_id} could not be downloaded ({type(error).__name__}). Without a network, copy "
            f"https://huggingface.co/datasets/{hub_id} ({', '.join(patterns)}) to a folder and name it with --from"
        ) from error


def relative(path: Path, folder: Path) -> str:
    """The path inside the folder, with slashes on every system."""
    return os.path.relpath(path, folder).replace(os.sep, "/")
