"""Rows of the hub's tables become questions: one function per benchmark, each with the traps of its table.

A function takes the row, where it stands, and the archive of images (None where the table holds them), and returns the
question. Columns: the hub's data set cards; PMC-VQA's second version and the folders of its archives after
alibaba-damo-academy/MedEvalKit@9b12e3b3, ``utils/PMC_VQA/PMC_VQA.py``.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from medvista_jax.data.benchmarks.hub_files import Archive, Raw, checked_image
from medvista_jax.data.benchmarks.item import BenchmarkItem
from medvista_jax.data.files.image import BadFile

_MARKER = re.compile(r"<image (\d+)>")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MMMU_IMAGES = range(1, 8)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a row stands.

    Attributes:
      benchmark, split: names.
      number: of the row in its split, from 0, over all files of the split.
      where: for messages: "row 3 of test.json", counted from 1 in that file.
      images: False leaves the images out, which is enough to count rows.
    """

    benchmark: str
    split: str
    number: int
    where: str
    images: bool = True


def text_of(row: Raw, column: str, place: Place, empty: bool = False) -> str:
    """A cell as text without blanks around it.

    Args:
      row, column, place: which cell.
      empty: it may be.

    Raises:
      BadFile: the table has no such column, or the cell is empty.
    """
    if column not in row:
        raise BadFile(f"{place.where}: has no column {column!r}, only {sorted(map(str, row))}; is this the hub's file?")
    text = "" if row[column] is None else str(row[column]).strip()
    if not text and not empty:
        raise BadFile(f"{place.where}: {column!r} is empty; fetch the file again, or leave the row out")
    return text


def _yes_no(text: str) -> bool:
    return text.lower() in ("yes", "no")


def _embedded(row: Raw, column: str, place: Place) -> bytes:
    """The bytes of the hub's ``{"bytes", "path"}``."""
    cell = row.get(column)
    return checked_image(cell.get("bytes") if isinstance(cell, Mapping) else None, place.where, f"{column!r}")


def _archived(archive: Archive | None, name: str, place: Place) -> bytes:
    if archive is None:
        raise ValueError(f"{place.benchmark} has its images in an archive")
    return checked_image(archive.read(name, place.where), place.where, f"its image {name!r}")


def _letter(text: str, options: Mapping[str, str], place: Place) -> str:
    if text.upper() not in options:
        raise BadFile(f"{place.where}: the answer {text!r} is none of the letters {', '.join(options)}")
    return text.upper()


def _extras(row: Raw, *columns: str) -> dict[str, Any]:
    return {column: row[column] for column in columns if row.get(column) not in (None, "")}


def embedded_vqa(row: Raw, place: Place, archive: Archive | None) -> BenchmarkItem:
    """VQA-RAD and PathVQA: image, question, answer; closed when the answer is yes or no."""
    answer = text_of(row, "answer", place)
    return BenchmarkItem(
        id=f"{place.split}-{place.number}",
        images=(_embedded(row, "image", place),) if place.images else (),
        question=text_of(row, "question", place),
        options=None,
        answer=answer,
        answer_letter=None,
        closed=_yes_no(answer),
        language="en",
        split=place.split,
        benchmark=place.benchmark,
    )


def slake(row: Raw, place: Place, archive: Archive | None) -> BenchmarkItem:
    """SLAKE: English and Chinese; the row says which answers are closed, and they need not be yes or no."""
    language, kind = text_of(row, "q_lang", place), text_of(row, "answer_type", place).upper()
    if language not in ("en", "zh") or kind not in ("OPEN", "CLOSED"):
        raise BadFile(f"{place.where}: q_lang {language!r} and answer_type {kind!r} are not en/zh and OPEN/CLOSED")
    return BenchmarkItem(
        id=text_of(row, "qid", place),
        images=(_archived(archive, text_of(row, "img_name", place), place),) if place.images else (),
        question=text_of(row, "question", place),
        options=None,
        answer=text_of(row, "answer", place),
        answer_letter=None,
        closed=kind == "CLOSED",
        language=language,
        split=place.split,
        benchmark=place.benchmark,
        extras=_extras(row, "img_id", "img_name", "location", "modality", "base_type", "content_type", "triple"),
    )


def _choices(row: Raw, place: Place) -> dict[str, str]:
    """PMC-VQA's choices without their letter: " A:Diffuse" is "Diffuse". Another's letter is part of the text."""
    choices = {letter: text_of(row, f"Choice {letter}", place, empty=True) for letter in "ABCD"}
    return {letter: re.sub(rf"^{letter}\s*:\s*", "", choice) for letter, choice in choices.items()}


def pmc_vqa(row: Raw, place: Place, archive: Archive | None) -> BenchmarkItem:
    """PMC-VQA: the letter is "Answer_label" in the first version and "Answer" in the second.

    The first version's "Answer" is text that need not equal the choice's; it is kept among the extras.
    """
    options = _choices(row, place)
    first = "Answer_label" in row
    letter = _letter(text_of(row, "Answer_label" if first else "Answer", place), options, place)
    figure = text_of(row, "Figure_path", place)
    return BenchmarkItem(
        id=f"{place.split}-{place.number}",
        images=(_archived(archive, figure, place),) if place.images else (),
        question=text_of(row, "Question", place),
        options=options,
        answer=options[letter],
        answer_letter=letter,
        closed=True,
        language="en",
        split=place.split,
        benchmark=place.benchmark,
        extras=_extras(row, "Figure_path", *(("Answer",) if first else ("Caption", "index"))),
    )


def _listed_options(row: Raw, place: Place) -> dict[str, str]:
    """MMMU's options: a string that holds a Python list, "[]" of an open question."""
    written = row.get("options") or "[]"
    try:
        listed = ast.literal_eval(written)
    except (ValueError, SyntaxError, TypeError) as error:
        raise BadFile(f"{place.where}: its options {written!r} are no Python list") from error
    if not isinstance(listed, list) or len(listed) > len(_LETTERS):
        raise BadFile(f"{place.where}: its options {written!r} are no list of at most {len(_LETTERS)}")
    return {letter: str(text).strip() for letter, text in zip(_LETTERS, listed, strict=False)}


def mmmu(row: Raw, place: Place, archive: Archive | None) -> BenchmarkItem:
    """MMMU: up to seven images, named by markers in the question and the options.

    "image_numbers" of the extras are the markers' numbers of ``images``: 1, 2, 3 … unless the row leaves one out.
    """
    question, answer = text_of(row, "question", place), text_of(row, "answer", place)
    multiple = text_of(row, "question_type", place) == "multiple-choice"
    options = _listed_options(row, place)
    if multiple and not options:
        raise BadFile(f"{place.where}: is multiple-choice without options")
    letter = _letter(answer, options, place) if multiple else None
    numbers = [n for n in _MMMU_IMAGES if row.get(f"image_{n}") is not None] if place.images else []
    named = {int(number) for text in (question, *options.values()) for number in _MARKER.findall(text)}
    if place.images and (absent := sorted((named or {1}) - set(numbers))):
        raise BadFile(f"{place.where}: image_{absent[0]} is missing, which its text names; fetch the file again")
    identity = text_of(row, "id", place)
    subject = re.sub(r"^(dev|validation|test)_|_\d+$", "", identity)
    about = _extras(row, "subfield", "img_type", "topic_difficulty", "question_type", "explanation")
    return BenchmarkItem(
        id=identity,
        images=tuple(_embedded(row, f"image_{n}", place) for n in numbers),
        question=question,
        options=options or None,
        answer=options[letter] if letter else answer,
        answer_letter=letter,
        closed=multiple,
        language="en",
        split=place.split,
        benchmark=place.benchmark,
        extras={"subject": subject, "image_numbers": numbers, **about},
    )


def medxpertqa(row: Raw, place: Place, archive: Archive | None) -> BenchmarkItem:
    """MedXpertQA-MM: options are a struct, images are names in the archive.

    The question repeats its options at the end ("Answer Choices: (A) …"); it is left as it is.
    """
    written, names = row.get("options"), row.get("images")
    if not isinstance(written, Mapping):
        raise BadFile(f"{place.where}: its options {written!r} are no letters with texts")
    if not isinstance(names, list) or not names:
        raise BadFile(f"{place.where}: it names no images; is this the MM part of the benchmark?")
    options = {letter: str(written[letter]).strip() for letter in sorted(written) if written[letter] is not None}
    letter = _letter(text_of(row, "label", place), options, place)
    return BenchmarkItem(
        id=text_of(row, "id", place),
        images=tuple(_archived(archive, name, place) for name in names) if place.images else (),
        question=text_of(row, "question", place),
        options=options,
        answer=options[letter],
        answer_letter=letter,
        closed=True,
        language="en",
        split=place.split,
        benchmark=place.benchmark,
        extras=_extras(row, "images", "medical_task", "body_system", "question_type"),
    )
