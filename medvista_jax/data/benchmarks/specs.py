"""The benchmarks: where they come from, their licence, their files, and how many questions they must have."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping

from medvista_jax.data.benchmarks import rows
from medvista_jax.data.benchmarks.hub_files import Archive, Raw
from medvista_jax.data.benchmarks.item import BenchmarkItem

SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)
"""MMMU's Health & Medicine."""


@dataclasses.dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
      files: patterns of its tables inside the repository.
      counts: how many there must be of "rows", "closed", "en", "closed en" … as far as it is known.
      about: a count of rows that is known only roughly; it may differ by a fiftieth.
    """

    files: tuple[str, ...]
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    about: int | None = None


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      name: in commands and folders.
      title: for people.
      hub_id: repository on the Hugging Face hub.
      licence: of the data.
      splits: by name.
      question: makes a question of a row, see :mod:`rows`.
      archive: the file with the images, or None.
      together: counts over all splits.
    """

    name: str
    title: str
    hub_id: str
    licence: str
    splits: Mapping[str, Split]
    question: Callable[[Raw, rows.Place, Archive | None], BenchmarkItem]
    archive: str | None = None
    together: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def patterns(self) -> list[str]:
        """Every file that is wanted of the repository."""
        files = [pattern for split in self.splits.values() for pattern in split.files]
        return [*files, self.archive] if self.archive else files


def _parquet(split: str) -> tuple[str, ...]:
    return (f"data/{split}-*.parquet",)


def _subjects(split: str) -> tuple[str, ...]:
    return tuple(f"{subject}/{split}-*.parquet" for subject in SUBJECTS)


_PMC_LICENCE = "CC BY-SA"

_ALL = (
    Benchmark(
        name="vqa_rad",
        title="VQA-RAD",
        hub_id="flaviagiammarino/vqa-rad",
        licence="CC0 1.0",
        splits={
            "train": Split(_parquet("train"), {"rows": 1793}),
            "test": Split(_parquet("test"), {"rows": 451, "closed": 251}),
        },
        question=rows.embedded_vqa,
    ),
    Benchmark(
        name="slake",
        title="SLAKE",
        hub_id="BoKelvin/SLAKE",
        licence="CC BY 4.0",
        splits={
            "train": Split(("train.json",)),
            "validation": Split(("validation.json",)),
            "test": Split(("test.json",), {"rows": 2094, "en": 1061, "closed": 836, "closed en": 416}),
        },
        question=rows.slake,
        archive="imgs.zip",
        together={"rows": 14028},  # the paper, arXiv 2102.09542
    ),
    Benchmark(
        name="path_vqa",
        title="PathVQA",
        hub_id="flaviagiammarino/path-vqa",
        licence="MIT (of the hub's card)",
        splits={
            "train": Split(_parquet("train"), {"rows": 19654}),
            "validation": Split(_parquet("validation"), {"rows": 6259}),
            "test": Split(_parquet("test"), {"rows": 6719, "closed": 3362}),
        },
        question=rows.embedded_vqa,
    ),
    Benchmark(
        name="pmc_vqa",
        title="PMC-VQA, version 1, checked by people",
        hub_id="RadGenome/PMC-VQA",
        licence=_PMC_LICENCE,
        splits={"test": Split(("test_clean.csv",), {"rows": 2000, "closed": 2000})},
        question=rows.pmc_vqa,
        archive="images.zip",
    ),
    Benchmark(
        name="pmc_vqa_2",
        title="PMC-VQA, version 2, figures of one part",
        hub_id="RadGenome/PMC-VQA",
        licence=_PMC_LICENCE,
        splits={"test": Split(("test_2.csv",), about=33_000)},
        question=rows.pmc_vqa,
        archive="images_2.zip",
    ),
    Benchmark(
        name="mmmu_medical",
        title="MMMU, Health & Medicine",
        hub_id="MMMU/MMMU",
        licence="Apache-2.0",
        splits={
            "dev": Split(_subjects("dev"), {"rows": 25}),
            "validation": Split(_subjects("validation"), {"rows": 150}),
        },
        question=rows.mmmu,
        together={"closed": 170},
    ),
    Benchmark(
        name="medxpertqa_mm",
        title="MedXpertQA, multimodal",
        hub_id="TsinghuaC3I/MedXpertQA",
        licence="MIT",
        splits={"test": Split(("MM/test.jsonl",), {"rows": 2000, "closed": 2000})},
        question=rows.medxpertqa,
        archive="images.zip",
    ),
)

BENCHMARKS: Mapping[str, Benchmark] = types.MappingProxyType({benchmark.name: benchmark for benchmark in _ALL})
"""By name. PMC-VQA is there twice: its versions have other files, images and columns."""


def benchmark_of(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
      KeyError: there is none; the message lists the names.
    """
    try:
        return BENCHMARKS[name.replace("-", "_").lower()]
    except KeyError:
        raise KeyError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}") from None
