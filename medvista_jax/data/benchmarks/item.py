"""One question of any benchmark, and how it lies in the prepared files."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds


@dataclasses.dataclass(frozen=True)
class BenchmarkItem:
    """A question with its images.

    Attributes:
      id: the benchmark's own where it has one, else split and row: "test-17".
      images: the files' bytes as the hub serves them (JPEG, PNG …), in the order of the question's markers.
      question: text. Markers such as ``<image 2>`` stay in it.
      options: letter -> text, in the order of the letters; None for a question without options.
      answer: text; of a question with options, the text of the right one.
      answer_letter: of the right option, or None.
      closed: yes/no and multiple choice; an open question wants words of one's own.
      language: "en" or "zh".
      split: such as "test".
      benchmark: such as "slake", see ``specs.BENCHMARKS``.
      extras: what else the row says (modality, body_system …), under the hub's names. Values are JSON.
    """

    id: str
    images: tuple[bytes, ...]
    question: str
    options: Mapping[str, str] | None
    answer: str
    answer_letter: str | None
    closed: bool
    language: str
    split: str
    benchmark: str
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def features() -> tfds.features.FeaturesDict:
    """The columns of the prepared files. None is kept as an empty text or list, which no benchmark has otherwise."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "images": tfds.features.Sequence(tfds.features.Image()),
            "question": text(),
            "letters": tfds.features.Sequence(text()),
            "options": tfds.features.Sequence(text()),
            "answer": text(),
            "answer_letter": text(),
            "closed": tfds.features.Scalar(np.bool_),
            "language": text(),
            "split": text(),
            "benchmark": text(),
            "extras": text(doc="JSON"),
        }
    )


class KeepFiles(tfds.decode.SkipDecoding):
    """Leaves a list of images encoded: decoding it needs tensorflow, and a model's processor takes the file anyway.

    tfds 4.9.10 has this for one image without tensorflow, not for a list of them.
    """

    def decode_batch_example_np(self, serialized_images: Any) -> Any:
        """The bytes as they are."""
        return serialized_images


DECODERS = {"images": KeepFiles()}


def to_example(item: BenchmarkItem) -> dict[str, Any]:
    """The row of the prepared files. Images go as file objects: tfds then keeps their bytes as they are."""
    options = item.options or {}
    return {
        "id": item.id,
        "images": [io.BytesIO(image) for image in item.images],
        "question": item.question,
        "letters": list(options),
        "options": list(options.values()),
        "answer": item.answer,
        "answer_letter": item.answer_letter or "",
        "closed": item.closed,
        "language": item.language,
        "split": item.split,
        "benchmark": item.benchmark,
        "extras": json.dumps(item.extras, ensure_ascii=False),
    }


def from_example(example: Mapping[str, Any]) -> BenchmarkItem:
    """The question of a row that was read without decoding its images."""

    def texts(values: Sequence[bytes]) -> list[str]:
        return [bytes(value).decode() for value in values]

    def text(name: str) -> str:
        return bytes(example[name]).decode()

    return BenchmarkItem(
        id=text("id"),
        images=tuple(bytes(image) for image in example["images"]),
        question=text("question"),
        options=dict(zip(texts(example["letters"]), texts(example["options"]), strict=True)) or None,
        answer=text("answer"),
        answer_letter=text("answer_letter") or None,
        closed=bool(example["closed"]),
        language=text("language"),
        split=text("split"),
        benchmark=text("benchmark"),
        extras=json.loads(text("extras")),
    )
