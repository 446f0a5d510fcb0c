"""Miniature copies of the hub's repositories: its files, columns and types, and every awkward kind of row."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

_IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
_TEXT = pyarrow.string()

SLAKE_ROW = {
    "img_id": 1,
    "img_name": "xmlab1/source.jpg",
    "question": "What modality is used to take this image?",
    "answer": "MRI",
    "q_lang": "en",
    "location": "Abdomen",
    "modality": "MRI",
    "answer_type": "OPEN",
    "base_type": "vqa",
    "content_type": "Modality",
    "triple": ["vhead", "_", "_"],
    "qid": 9835,
}


def picture(value: int, kind: str = "JPEG", mode: str = "L") -> bytes:
    """An encoded image of 6 x 5 pixels; the bytes end in zeros, which nothing may strip."""
    out = io.BytesIO()
    Image.new(mode, (6, 5), value if mode == "L" else (value,) * len(mode)).save(out, kind)
    return out.getvalue() + b"\0\0"


def archive(path: Path, members: Mapping[str, bytes]) -> None:
    """A zip, with the shadows that macOS leaves in one."""
    with zipfile.ZipFile(path, "w") as out:
        for name, data in members.items():
            out.writestr(name, data)
            out.writestr(f"__MACOSX/{name}", b"a shadow")


def table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, pyarrow.DataType]) -> None:
    """Parquet with the hub's types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), pyarrow.schema(list(columns.items()))), path)


def spread(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def embedded(folder: Path, split: str, rows: Sequence[tuple[bytes | None, str, str]], shards: int = 1) -> None:
    """VQA-RAD or PathVQA: a split in shards."""
    size = -(-len(rows) // shards)
    for shard in range(shards):
        part = rows[shard * size : (shard + 1) * size]
        records = [
            {"image": image and {"bytes": image, "path": None}, "question": q, "answer": a} for image, q, a in part
        ]
        name = f"{split}-{shard:05d}-of-{shards:05d}-0123456789abcdef.parquet"
        table(folder / "data" / name, records, {"image": _IMAGE, "question": _TEXT, "answer": _TEXT})


def slake(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """SLAKE's test split. Two images have the same name in different folders."""
    (folder / "test.json").write_text(json.dumps(list(rows), ensure_ascii=False), encoding="utf-8")
    members = {"imgs/xmlab1/source.jpg": picture(10), "imgs/xmlab10/source.jpg": picture(20)}
    archive(folder / "imgs.zip", members)


def mmmu(folder: Path, subject: str, split: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """One subject of MMMU."""
    names = ("id", "question", "options", "explanation")
    columns: dict[str, pyarrow.DataType] = {name: _TEXT for name in names}
    columns |= {f"image_{n}": _IMAGE for n in range(1, 8)}
    columns |= {name: _TEXT for name in ("img_type", "answer", "topic_difficulty", "question_type", "subfield")}
    table(folder / subject / f"{split}-00000-of-00001.parquet", rows, columns)


def mmmu_row(**changes: Any) -> dict[str, Any]:
    """A row of MMMU; images are given as bytes."""
    row = {
        "id": "validation_Clinical_Medicine_1",
        "question": "What does <image 1> show?",
        "options": "['Fracture', \"Paget's disease\"]",
        "explanation": "",
        "image_1": picture(1, "PNG"),
        "img_type": "['Body Scans: MRI, CT scans, and X-rays']",
        "answer": "B",
        "topic_difficulty": "Medium",
        "question_type": "multiple-choice",
        "subfield": "Clinical Radiology",
    } | changes
    return {k: {"bytes": v, "path": f"{k}.png"} if isinstance(v, bytes) else v for k, v in row.items()}
