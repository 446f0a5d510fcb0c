"""Files made for the tests: DICOM by pydicom, pictures by Pillow, tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels import set_pixel_data
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

ROWS = [
    {"image": "a.png", "question": "Is there a mass?", "answer": "yes"},
    {"image": "b.dcm", "question": "Which side?", "answer": "left"},
    {"image": "sub/c.nii.gz", "question": "How many?", "answer": "3"},
]
PIXELS = np.arange(30, dtype=np.uint8).reshape(5, 6)


def dicom(pixels: np.ndarray, photometric: str = "MONOCHROME2", bits: int | None = None, **elements: Any) -> Dataset:
    """A secondary capture of ``pixels`` with further elements set by keyword; None deletes one."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset("made.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality = "OT"
    set_pixel_data(made, pixels, photometric, bits or 8 * pixels.itemsize)
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def group(**elements: Any) -> list[Dataset]:
    """A sequence of one item."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return [item]


def as_bytes(made: Dataset) -> bytes:
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def saved(picture: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as the table that the suffix says; lists in CSV as JSON. Returns ``path``."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            for row in rows:
                writer.writerow({k: json.dumps(v) if isinstance(v, (list, dict)) else v for k, v in row.items()})
    return path
