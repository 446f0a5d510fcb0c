"""From a copy of the hub's repository to files with random access, with checksums of both."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import tensorflow_datasets as tfds

from medvista_jax.data.benchmarks.builder import FULL, SUBSET, BenchmarkBuilder
from medvista_jax.data.benchmarks.counts import source_files
from medvista_jax.data.benchmarks.hub_files import download, relative
from medvista_jax.data.benchmarks.specs import Benchmark, benchmark_of
from medvista_jax.data.files.image import BadFile
from medvista_jax.runtime.compile_cache import cache_folder
from medvista_jax.runtime.wheels import file_digest

MANIFEST = "checksums.json"
"""In the prepared folder: sha256 of the hub's files ("source") and of the prepared ones ("prepared")."""


def default_folder() -> Path:
    """Where prepared benchmarks go."""
    return cache_folder() / "benchmarks"


def builder_of(benchmark: Benchmark, folder: Path | None = None, subset: bool = False) -> BenchmarkBuilder:
    """tfds's builder of a benchmark, prepared or not.

    Args:
      benchmark: which.
      folder: of prepared benchmarks; None for :func:`default_folder`.
      subset: a part of the questions, see :class:`BenchmarkBuilder`.
    """
    module = f"medvista_jax.data.benchmarks.builders.{benchmark.name}.{benchmark.name}_dataset_builder"
    return importlib.import_module(module).Builder(
        data_dir=str(folder or default_folder()), config=SUBSET if subset else FULL, file_format="array_record"
    )


def prepare(name: str, source: Path | None = None, to: Path | None = None, subset: bool = False) -> Path:
    """Prepares a benchmark, once: a second call compares the checksums and keeps what is there.

    Args:
      name: see ``specs.BENCHMARKS``.
      source: copy of the hub's repository; None downloads it.
      to: folder for prepared benchmarks; None for :func:`default_folder`.
      subset: accept a part of the questions, see :class:`BenchmarkBuilder`.

    Returns:
      The folder with the prepared files.

    Raises:
      KeyError: no such benchmark.
      BadFile: files are missing, damaged, or not those of the first call; too few or too many questions; a row that
        cannot be used.
    """
    benchmark = benchmark_of(name)
    folder = download(benchmark.hub_id, benchmark.patterns) if source is None else source
    files = source_files(benchmark, folder, subset)
    if missing := [path for path in files if not path.is_file()]:
        raise BadFile(f"{missing[0]}: is missing; copy it from https://huggingface.co/datasets/{benchmark.hub_id}")
    digests = {relative(path, folder): file_digest(path) for path in files}
    builder = builder_of(benchmark, to, subset)
    prepared = Path(builder.data_path)
    if prepared.exists():
        _compare(
            digests,
            read_manifest(prepared)["source"],
            folder,
            f"fetch it again, or remove {prepared} to prepare from what there is now",
        )
        verify(prepared)
        return prepared
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(folder)))
    manifest = {"source": digests, "prepared": {p.name: file_digest(p) for p in sorted(prepared.iterdir())}}
    (prepared / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return prepared


def read_manifest(prepared: Path) -> dict[str, dict[str, str]]:
    """The checksums of a prepared folder.

    Raises:
      BadFile: there are none, as after a preparation that was cut short, or they cannot be read.
    """
    path = prepared / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        return {part: dict(manifest[part]) for part in ("source", "prepared")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFile(f"{path}: cannot be read; remove {prepared} and prepare it again") from error


def verify(prepared: Path, split: str | None = None) -> None:
    """Compares the prepared files with their checksums.

    Args:
      prepared: the folder of one benchmark.
      split: only this split's files and the description; None for all.

    Raises:
      BadFile: a file has changed or is missing; the message names it.
    """
    digests = {
        name: digest
        for name, digest in read_manifest(prepared)["prepared"].items()
        if split is None or name.endswith(".json") or f"-{split}." in name
    }
    found = {name: file_digest(prepared / name) for name in digests if (prepared / name).is_file()}
    _compare(found, digests, prepared, f"remove {prepared} and prepare it again")


def _compare(found: dict[str, str], recorded: dict[str, str], folder: Path, remedy: str) -> None:
    for name in sorted(found.keys() | recorded.keys()):
        if name not in found:
            raise BadFile(f"{folder / name}: is missing, but was there when it was prepared; {remedy}")
        if name not in recorded:
            raise BadFile(f"{folder / name}: was not there when it was prepared; {remedy}")
        if found[name] != recorded[name]:
            was, now = recorded[name][:16], found[name][:16]
            raise BadFile(f"{folder / name}: has changed since it was prepared (sha256 {now}…, was {was}…); {remedy}")
