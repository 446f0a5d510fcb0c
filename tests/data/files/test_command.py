"""``python -m medvista_jax.data.files``: a report, exit codes, and no traceback."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from PIL import Image

from medvista_jax.data.files.__main__ import main
from tests.data.files.made import ROWS, as_bytes, dicom, write


def test_the_report_of_a_sound_folder(folder, tmp_path, capsys):
    write(folder / "questions.jsonl", ROWS)
    sheet = tmp_path / "sheet.png"
    assert main([str(folder), "--sheet", str(sheet)]) == 0
    text = capsys.readouterr().out
    for part in (
        "3 questions (0 with options), 3 different answers",
        "1  MR, 5 x 6, uint16 grey, no unit, 1 x 2 mm",
        "1  -, 5 x 6, uint8 grey, no unit, no mm",
        "chests/000001: Which side? -> left",
        "shows 3 of them",
    ):
        assert part in text
    drawn = np.asarray(Image.open(sheet))
    assert drawn.shape[2] == 3 and len(np.unique(drawn)) > 20


def test_the_sheet_shows_pixels_as_tall_as_they_are(folder, tmp_path):
    (folder / "b.dcm").write_bytes(as_bytes(dicom(np.full((10, 10), 255, np.uint8), PixelSpacing=[1, 2])))
    write(folder / "questions.jsonl", [ROWS[1] | {"question": "?"}])
    assert main([str(folder), "--sheet", str(tmp_path / "sheet.png")]) == 0
    tile = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))[10:330, 10:330]
    assert tile.shape == (320, 320) and (tile == 255).all()  # white on white: look at the dark one
    (folder / "b.dcm").write_bytes(as_bytes(dicom(np.zeros((10, 10), np.uint8), PixelSpacing=[1, 2])))
    main([str(folder), "--sheet", str(tmp_path / "sheet.png")])
    tile = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))[10:330, 10:330]
    assert (tile[:160] == 0).all() and (tile[160:] == 255).all()


def test_rows_that_cannot_be_used_are_listed(folder, capsys):
    (folder / "a.png").write_bytes(b"no picture")
    write(folder / "questions.jsonl", [*ROWS, ROWS[1] | {"image": "absent.png"}])
    assert main([str(folder)]) == 1
    text = capsys.readouterr().out
    assert "3 questions" in text and "2 rows cannot be used" in text
    assert "line 7, column 'image'" in text and "line 1: " in text and "a.png: is no image" in text


def test_bad_sources_are_one_line_and_exit_code_2(folder, tmp_path):
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    write(folder / "questions.jsonl", ROWS)
    for arguments in (["/nowhere"], [str(tmp_path / "cut.parquet")], [str(folder), "--question-column", "ask"]):
        done = subprocess.run(
            [sys.executable, "-m", "medvista_jax.data.files", *arguments], capture_output=True, text=True
        )
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("medvista_jax.data.files: ") and done.stderr.count("\n") == 1
        assert "Traceback" not in done.stderr


def test_a_sheet_that_cannot_be_written_is_one_line(folder, capsys):
    write(folder / "questions.jsonl", ROWS)
    assert main([str(folder), "--sheet", "/nowhere/sheet.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_columns_frames_and_slices_can_be_named(folder, capsys):
    rows = [{"img": row["image"], "ask": row["question"], "say": row["answer"]} for row in ROWS]
    write(folder / "questions.csv", rows)
    names = ["--image-column", "img", "--question-column", "ask", "--answer-column", "say"]
    assert main([str(folder), *names, "--slices", "coronal:all"]) == 0
    assert "6  -, 4 x 5, uint8 grey" in capsys.readouterr().out
