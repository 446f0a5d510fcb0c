"""Prepared questions: by index, and one after the other with a state to go on from."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

import grain

from medvista_jax.data.benchmarks.item import DECODERS, BenchmarkItem, from_example
from medvista_jax.data.benchmarks.preparation import builder_of, verify
from medvista_jax.data.benchmarks.specs import benchmark_of
from medvista_jax.data.files.image import BadFile


class Questions:
    """The questions of one split; question i is row i of the hub's files. A source for ``grain``.

    Args:
      name: see ``specs.BENCHMARKS``.
      split: such as "test".
      folder: of prepared benchmarks; None for the default.
      subset: what was prepared as a subset.
      check: compare the split's files with their checksums first.

    Raises:
      KeyError: no such benchmark.
      BadFile: it has not been prepared, has no such split, or a file has changed.
    """

    def __init__(
        self, name: str, split: str = "test", folder: Path | None = None, subset: bool = False, check: bool = True
    ) -> None:
        benchmark = benchmark_of(name)
        builder = builder_of(benchmark, folder, subset)
        prepared = Path(builder.data_path)
        if not prepared.exists():
            raise BadFile(
                f"{prepared}: {benchmark.title} has not been prepared; run python -m medvista_jax.data.benchmarks "
                f"prepare {benchmark.name}{' --subset' if subset else ''}"
            )
        if split not in builder.info.splits:
            raise BadFile(f"{prepared}: has no split {split!r}, only {', '.join(builder.info.splits)}")
        if check:
            verify(prepared, split)
        self.benchmark, self.split = benchmark, split
        self._rows = builder.as_data_source(split=split, decoders=DECODERS)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: SupportsIndex) -> BenchmarkItem:
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"question {position} of {len(self)} ({self.benchmark.name}, {self.split})")
        return from_example(self._rows[position % len(self)])


class Walk(Iterator[BenchmarkItem]):
    """Goes through questions; the order is a function of the seed, and a state continues it anywhere.

    Args:
      questions: of one split.
      seed: of the order, another one in every epoch; None keeps the files' order.
      epochs: how often; None without end.
    """

    def __init__(self, questions: Questions, seed: int | None = None, epochs: int | None = 1) -> None:
        dataset = grain.MapDataset.source(questions)
        if seed is not None:
            dataset = dataset.shuffle(seed=seed)
        self._iterator = iter(dataset.repeat(epochs).to_iter_dataset())
        self._what = {
            "benchmark": questions.benchmark.name,
            "split": questions.split,
            "questions": len(questions),
            "seed": seed,
            "epochs": epochs,
        }

    def __next__(self) -> BenchmarkItem:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """What :meth:`restore` goes on from; JSON."""
        return {**self._what, "grain": self._iterator.get_state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from there.

        Raises:
          ValueError: the state is of other questions or another order; the message says what differs.
        """
        differ = [
            f"{key} {state.get(key)!r}, not {value!r}" for key, value in self._what.items() if state.get(key) != value
        ]
        if differ or "grain" not in state:
            raise ValueError(f"the state is of another walk: {'; '.join(differ) or 'it has no position'}")
        self._iterator.set_state(state["grain"])
