"""Anybody's files: a folder or a parquet of (image, question, answer), with DICOM and NIfTI among the images.

``read_questions`` reads the table, ``load_images`` one image file, ``lay_on_canvas`` makes static shapes of what came
out. ``python -m medvista_jax.data.files SOURCE`` says what a data set holds and what is wrong with it. Everything is
numpy on the host. pydicom, nibabel and pyarrow are imported when a file needs them.

Units and millimetres come from the files; where a file says nothing they are absent.
"""

from medvista_jax.data.files.canvas import CANVAS_BUCKETS, CanvasArrays, choose_canvas, lay_on_canvas
from medvista_jax.data.files.image import BadFile, MedicalImage
from medvista_jax.data.files.load import load_images
from medvista_jax.data.files.questions import FileItem, read_questions
from medvista_jax.data.files.tables import Columns

__all__ = [
    "CANVAS_BUCKETS",
    "BadFile",
    "CanvasArrays",
    "Columns",
    "FileItem",
    "MedicalImage",
    "choose_canvas",
    "lay_on_canvas",
    "load_images",
    "read_questions",
]
