"""Tables of questions: JSON lines, JSON, CSV and parquet, and which of them a source means."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medvista_jax.data.files.image import BadFile

SUFFIXES = (".jsonl", ".csv", ".tsv", ".json", ".parquet")
NAMES = ("questions", "metadata")
"""Stems of tables in a folder, the first that is there; "metadata" is what the hub's image folders have."""

_SHARD = re.compile(r"(.+?)-\d+-of-\d+")

Cell = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of columns. A name that is given must be there; None stands for the first usual name, if any.

    Attributes:
      image: path, bytes, the hub's ``{"bytes", "path"}``, or a list of them; usual: see ``IMAGE_COLUMNS``.
      question, answer: text.
      options: list, or letter to text; usual: "options", "choices".
      id, answer_type: text; usual: these names.
      frames, slices: which part of the row's files, see ``load.load_images``; usual: these names.
    """

    image: str | None = None
    question: str = "question"
    answer: str = "answer"
    options: str | None = None
    id: str | None = None
    answer_type: str | None = None
    frames: str | None = None
    slices: str | None = None


IMAGE_COLUMNS = ("image", "images", "file_name", "file_names", "image_path", "img_name")
_USUAL = {
    "image": IMAGE_COLUMNS,
    "options": ("options", "choices"),
    "id": ("id",),
    "answer_type": ("answer_type",),
    "frames": ("frames",),
    "slices": ("slices",),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      table: the file.
      number: of the line in JSON lines, else of the row, from 1.
      values: field of ``Columns`` to value, where the table has the column; all but the image.
      image: reads the image cell.
      lazy: the cell holds bytes and is read from the file anew.
      column: field to the column's name.
      fault: what is wrong with the row as a whole, "" otherwise.
    """

    table: Path
    number: int
    values: dict[str, Any]
    image: Cell
    column: dict[str, str]
    lazy: bool = False
    fault: str = ""

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.table}, {'line' if self.table.suffix == '.jsonl' else 'row'} {self.number}"


def find_tables(source: str | os.PathLike | Sequence[str | os.PathLike], split: str | None = None) -> list[Path]:
    """The tables that ``source`` stands for, in order.

    Args:
      source: a table; several (shards); a pattern with ``*``; or a folder with a table named as in ``NAMES`` or else
        with parquet shards, in it or in folders below.
      split: takes the shards of one split: "test" of ``test-00000-of-00003.parquet`` or ``test/0000.parquet``.

    Raises:
      BadFile: nothing there, or several splits or tables and no choice; says what there is.
    """
    if not isinstance(source, (str, os.PathLike)):
        tables = [Path(part) for part in source]
        if not tables:
            raise BadFile("the list of files is empty; name a folder, a table or its shards")
    elif "*" in str(source):
        pattern = Path(source)
        above = next(folder for folder in pattern.parents if "*" not in str(folder))
        tables = sorted(above.glob(str(pattern.relative_to(above))))
        if not tables:
            raise BadFile(f"{source}: no file fits this pattern")
    elif Path(source).is_dir():
        return _in_folder(Path(source), split)
    else:
        tables = [Path(source)]
    for table in tables:
        if not table.is_file():
            raise BadFile(f"{table}: no such file or folder" if not table.exists() else f"{table}: is a folder")
        if table.suffix.lower() not in SUFFIXES:
            raise BadFile(f"{table}: is no table of questions; what is read: {', '.join(SUFFIXES)}, or a folder")
    return tables


def _in_folder(folder: Path, split: str | None) -> list[Path]:
    for stem in NAMES:
        found = [folder / (stem + suffix) for suffix in SUFFIXES if (folder / (stem + suffix)).is_file()]
        if len(found) > 1:
            raise BadFile(f"{folder}: has {' and '.join(path.name for path in found)}; name one of them")
        if found:
            return found
    shards = sorted(folder.rglob("*.parquet"))
    if not shards:
        there = sorted(entry.name for entry in folder.iterdir())[:8]
        raise BadFile(
            f"{folder}: has no table of questions: no {' or '.join(NAMES)} with {', '.join(SUFFIXES)}, and no parquet; "
            f"it holds {', '.join(there) or 'nothing'}"
        )
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        by_split.setdefault(_split_of(shard), []).append(shard)
    if split is None and len(by_split) > 1 or split is not None and split not in by_split:
        raise BadFile(f"{folder}: holds the splits {', '.join(sorted(by_split))}; choose one with split=, --split")
    chosen = by_split[split] if split is not None else shards
    homes = sorted({str(shard.parent) for shard in chosen})
    if len(homes) > 1:
        raise BadFile(f"{folder}: shards of one split lie in {', '.join(homes)}; name one of these folders")
    return chosen


def _split_of(shard: Path) -> str:
    match = _SHARD.fullmatch(shard.stem)
    return match[1] if match else shard.parent.name if shard.stem.isdigit() else shard.stem


def read_rows(table: Path, columns: Columns, groups: RowGroups) -> Iterator[Row]:
    """Rows of one table in order; text is read at once, bytes of images when their cell is called.

    Args:
      groups: one for all tables, so that its bound on memory holds for all.

    Raises:
      BadFile: no such table, an empty one, or a column that is missing; says which columns there are.
    """
    reader = _read_parquet if table.suffix.lower() == ".parquet" else _read_text
    try:
        yield from reader(table, columns, groups)
    except OSError as error:
        raise BadFile(f"{table}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise BadFile(f"{table}: is no UTF-8 text (byte {error.start}); save it as UTF-8") from None


def resolve(table: Path, columns: Columns, names: Sequence[str]) -> dict[str, str]:
    """Field of ``Columns`` to the column of this table; optional ones that are absent are left out.

    Raises:
      BadFile: a column that is needed or named is missing.
    """
    found = {}
    for field in dataclasses.fields(columns):
        named = getattr(columns, field.name)
        wanted = (named,) if named is not None else _USUAL.get(field.name, (field.name,))
        column = next((name for name in wanted if name in names), None)
        if column is not None:
            found[field.name] = column
        elif named is not None or field.name in ("image", "question", "answer"):
            flag = f"--{field.name.replace('_', '-')}-column"
            raise BadFile(
                f"{table}: no column {' or '.join(map(repr, wanted))} for the {field.name}; its columns are "
                f"{', '.join(names) or '(none)'}; name the right one (Columns({field.name}=…), {flag})"
            )
    return found


def _read_text(table: Path, columns: Columns, groups: RowGroups) -> Iterator[Row]:
    suffix = table.suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows, names = _delimited(table, "\t" if suffix == ".tsv" else ",")
    else:
        rows = _json_lines(table) if suffix == ".jsonl" else _json_array(table)
        names = list(dict.fromkeys(name for _, values, _ in rows for name in values))
    if not rows:
        raise BadFile(f"{table}: holds no rows")
    column = resolve(table, columns, names)
    for number, values, fault in rows:
        chosen = {field: values[name] for field, name in column.items() if field != "image" and name in values}
        yield Row(table, number, chosen, functools.partial(values.get, column["image"]), column, fault=fault)


def _delimited(table: Path, delimiter: str) -> tuple[list, list[str]]:
    rows = []
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        try:
            names = list(reader.fieldnames or [])
            for number, values in enumerate(reader, 1):
                surplus = values.pop(None, None)
                fault = f"{len(surplus)} fields more than the header has; quote what holds commas" if surplus else ""
                rows.append((number, values, fault))
        except csv.Error as error:
            raise BadFile(f"{table}, line {reader.line_num}: {error}") from None
    return rows, names


def _json_lines(table: Path) -> list:
    rows = []
    for number, line in enumerate(table.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            rows.append((number, {}, f"no JSON: {error}"))
            continue
        whole = isinstance(values, dict)
        rows.append((number, values if whole else {}, "" if whole else "a JSON object is wanted"))
    return rows


def _json_array(table: Path) -> list:
    try:
        content = json.loads(table.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadFile(f"{table}: no JSON: {error}; if each line is an object, name it .jsonl") from None
    if not isinstance(content, list) or not all(isinstance(values, dict) for values in content):
        raise BadFile(f"{table}: an array of JSON objects is wanted, one a question")
    return [(number, values, "") for number, values in enumerate(content, 1)]


class RowGroups:
    """Image cells of parquet files. At most two row groups stay in memory: reading in order reads each once."""

    def __init__(self) -> None:
        self._group = functools.lru_cache(maxsize=2)(self._read)

    @staticmethod
    def _read(table: Path, group: int, column: str):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(table) as file:
                return file.read_row_group(group, columns=[column]).column(column)
        except (pa.ArrowException, OSError) as error:
            raise BadFile(f"{table}: row group {group} is damaged: {' '.join(str(error).split())}") from None

    def cell(self, table: Path, group: int, column: str, row: int) -> Any:
        """The Python value of one cell; ``row`` counts in the row group."""
        return self._group(table, group, column)[row].as_py()


def _read_parquet(table: Path, columns: Columns, groups: RowGroups) -> Iterator[Row]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise BadFile(f"{table}: parquet is read by pyarrow, which is missing: python -m pip install pyarrow") from None
    try:
        with pq.ParquetFile(table) as file:
            column = resolve(table, columns, file.schema_arrow.names)
            if file.metadata.num_rows == 0:
                raise BadFile(f"{table}: holds no rows")
            lazy = _holds_bytes(file.schema_arrow.field(column["image"]).type)
            eager = [name for field, name in column.items() if not (lazy and field == "image")]
            values = file.read(columns=list(dict.fromkeys(eager))).to_pylist()
            sizes = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    except pa.ArrowException as error:
        raise BadFile(f"{table}: is no sound parquet file: {' '.join(str(error).split())}") from None
    places = ((group, row) for group, size in enumerate(sizes) for row in range(size))
    for number, (group, row) in enumerate(places):
        chosen = {field: values[number][name] for field, name in column.items() if field != "image"}
        if lazy:
            image = functools.partial(groups.cell, table, group, column["image"], row)
        else:
            image = functools.partial(values[number].get, column["image"])
        yield Row(table, number + 1, chosen, image, column, lazy)


def _holds_bytes(kind: Any) -> bool:
    """Whether cells of a column are bytes, the hub's ``{"bytes", "path"}``, or lists of them."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        return _holds_bytes(kind.value_type)
    if types.is_struct(kind):
        return any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return types.is_binary(kind) or types.is_large_binary(kind)
