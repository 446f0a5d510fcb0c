"""The questions of a folder, one after the other, and whether there are as many as there must be."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Mapping
from pathlib import Path

from medvista_jax.data.benchmarks.hub_files import find, open_archive, read_rows, relative
from medvista_jax.data.benchmarks.item import BenchmarkItem
from medvista_jax.data.benchmarks.rows import Place
from medvista_jax.data.benchmarks.specs import Benchmark
from medvista_jax.data.files.image import BadFile

Counts = Mapping[str, int]


def tables_of(benchmark: Benchmark, folder: Path, subset: bool = False) -> dict[str, list[Path]]:
    """The tables of each split.

    Args:
      benchmark: which.
      folder: copy of the hub's repository.
      subset: splits may be missing, though not all.

    Raises:
      BadFile: the folder or a split's file is missing.
    """
    if not folder.is_dir():
        raise BadFile(f"{folder}: is no folder; name a copy of https://huggingface.co/datasets/{benchmark.hub_id}")
    tables = {}
    for name, split in benchmark.splits.items():
        found = find(folder, split.files)
        if subset:  # one subject of several will do
            found = found or [path for pattern in split.files for path in find(folder, [pattern])]
        if found:
            tables[name] = found
        elif not subset:
            missing = next(pattern for pattern in split.files if not find(folder, [pattern]))
            raise BadFile(
                f"{folder}: has no {missing} (the {name} split of {benchmark.title}); copy it from "
                f"https://huggingface.co/datasets/{benchmark.hub_id}, or pass --subset to go without"
            )
    if not tables:
        raise BadFile(f"{folder}: has none of {', '.join(benchmark.patterns)}; is it a copy of {benchmark.hub_id}?")
    return tables


def source_files(benchmark: Benchmark, folder: Path, subset: bool = False) -> list[Path]:
    """Every file that the questions come from, for their checksums."""
    tables = [path for paths in tables_of(benchmark, folder, subset).values() for path in paths]
    return [*tables, folder / benchmark.archive] if benchmark.archive else tables


def questions(
    benchmark: Benchmark, folder: Path, split: str, *, images: bool = True, subset: bool = False
) -> Iterator[BenchmarkItem]:
    """The questions of a split in the order of its files.

    Args:
      benchmark, folder, subset: see :func:`tables_of`.
      split: its name.
      images: False reads none, which is quick.

    Raises:
      BadFile: a row cannot be used; the message names it and its file.
    """
    number = 0
    archive = folder / benchmark.archive if images and benchmark.archive else None
    with open_archive(archive) as opened:
        for path in tables_of(benchmark, folder, subset)[split]:
            for row_number, row in enumerate(read_rows(path, images), 1):
                where = f"row {row_number} of {relative(path, folder)}"
                yield benchmark.question(row, Place(benchmark.name, split, number, where, images), opened)
                number += 1


def count(benchmark: Benchmark, folder: Path, subset: bool = False) -> dict[str, Counts]:
    """How many questions each split has: "rows", "open" and "closed", each language, and "closed en" …"""
    counted = {}
    for split in tables_of(benchmark, folder, subset):
        counts: collections.Counter[str] = collections.Counter()
        for item in questions(benchmark, folder, split, images=False, subset=subset):
            kind = "closed" if item.closed else "open"
            counts.update(("rows", kind, item.language, f"{kind} {item.language}"))
        counted[split] = dict(counts)
    return counted


def check(benchmark: Benchmark, counted: Mapping[str, Counts]) -> None:
    """Compares with what is known.

    Raises:
      BadFile: something differs; the message lists all that does.
    """
    wrong = []
    for name, split in benchmark.splits.items():
        got = counted.get(name, {})
        wrong += _differences(f"{name} split", split.counts, got)
        rows = got.get("rows", 0)
        if split.about is not None and abs(rows - split.about) > split.about // 50:
            wrong.append(f"{name} split: {rows} rows, not about {split.about}")
    together: collections.Counter[str] = collections.Counter()
    for counts in counted.values():
        together.update(counts)
    wrong += _differences("all splits", benchmark.together, together)
    if wrong:
        raise BadFile(
            f"{benchmark.title}: {'; '.join(wrong)}. Files are missing or of another version; fetch "
            f"{benchmark.hub_id} again, or pass --subset if this is a part on purpose"
        )


def _differences(what: str, expected: Counts, got: Counts) -> list[str]:
    return [f"{what}: {got.get(key, 0)} {key}, not {n}" for key, n in expected.items() if got.get(key, 0) != n]
