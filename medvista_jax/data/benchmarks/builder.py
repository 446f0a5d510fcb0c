"""What the builders of all benchmarks share. tensorflow-datasets runs them without tensorflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from medvista_jax.data.benchmarks.counts import check, count, questions, tables_of
from medvista_jax.data.benchmarks.item import features, to_example
from medvista_jax.data.benchmarks.specs import BENCHMARKS

FULL, SUBSET = "full", "subset"


class BenchmarkBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Reads a copy of the hub's repository, tfds's ``manual_dir``.

    There are two configurations: ``full`` must have all questions of the reference, ``subset`` any part of them. They
    lie in different folders, so that a part is never taken for the whole.
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = "python -m medvista_jax.data.benchmarks prepare NAME downloads it, or takes --from"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=FULL, description="every question"),
        tfds.core.BuilderConfig(name=SUBSET, description="a part of the questions"),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        benchmark = BENCHMARKS[self.name]
        return tfds.core.DatasetInfo(
            builder=self,
            description=benchmark.title,
            homepage=f"https://huggingface.co/datasets/{benchmark.hub_id}",
            license=benchmark.licence,
            features=features(),
            disable_shuffling=True,  # question i stays question i of the hub's files
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[int, Any]]]:
        benchmark, folder = BENCHMARKS[self.name], Path(dl_manager.manual_dir)
        subset = self.builder_config.name == SUBSET
        counted = count(benchmark, folder, subset)
        if not subset:
            check(benchmark, counted)
        return {name: self._generate_examples(folder, name) for name in tables_of(benchmark, folder, subset)}

    def _generate_examples(self, folder: Path, split: str) -> Iterator[tuple[int, Any]]:
        subset = self.builder_config.name == SUBSET
        for i, item in enumerate(questions(BENCHMARKS[self.name], folder, split, subset=subset)):
            yield i, to_example(item)
