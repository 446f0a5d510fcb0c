"""``python -m medvista_jax.data.trajectories``: what it prints and its exit codes."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from medvista_jax.data.trajectories import read_records
from medvista_jax.data.trajectories.__main__ import main
from tests.data.trajectories.test_importers import MESSAGES, SHAREGPT, changed


@pytest.fixture
def folder(tmp_path):
    for name, value in (("a.png", 10), ("b.png", 20)):
        Image.new("L", (16, 16), value).save(tmp_path / name)
    rows = [MESSAGES, MESSAGES | {"images": []}, changed(4, content="left"), MESSAGES | {"images": []}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    (tmp_path / "rows.json").write_text(json.dumps([SHAREGPT]))
    return tmp_path


def test_convert_show_and_stats(folder, capsys):
    out = folder / "out" / "t.jsonl"
    assert main(["convert", "messages", str(folder / "rows.jsonl"), "--out", str(out), "--split", "train"]) == 1
    said = capsys.readouterr()
    assert f"2 records in {out}" in said.out and "3 rows rejected" in said.out
    place = f"{folder / 'rows.jsonl'}, line 2"
    assert f"      2  fewer images than <image> marks (first: {place})" in said.out
    assert "      1  is no JSON object (first:" in said.out
    assert "1  noted: the last turn, without a call, is taken for the answer" in said.out
    assert "[rows.jsonl] done: 5/5" in said.err
    records = list(read_records(out))
    assert [record.id for record in records] == ["rows/000001", "rows/000003"]
    assert records[0].family == "rows" and records[0].split == "train"
    assert records[0].source.name == f"{folder / 'rows.jsonl'}, line 1"

    assert main(["stats", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 records of 2 questions") and "2  calls of zoom_in" in said and "turns: mean 2.00" in said
    assert "2  from file openai" in said

    assert main(["show", str(out), "--row", "1"]) == 0
    said = capsys.readouterr().out
    assert "rows/000003" in said and "  heard   image 1 (" in said and "answer    'left', right; true: 'Left'" in said
    assert main(["show", str(out), "--row", "2"]) == 2
    assert "there is no record 2, there are 2" in capsys.readouterr().err


def test_sharegpt_with_tools_of_ones_own_and_linked_images(folder, capsys):
    out = folder / "t.jsonl"
    arguments = [
        "convert",
        "sharegpt",
        str(folder / "rows.json"),
        "--out",
        str(out),
        "--tools",
        "flip,zoom_in",
        "--link",
    ]
    assert main(arguments) == 0
    (record,) = read_records(out)
    assert record.tools == ("flip", "zoom_in") and not (folder / "images").exists()
    assert record.images[0].load().pixels_YXC[0, 0, 0] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "messages", "rows.jsonl", "--out", "rows.jsonl"], "is one of the files to read"),
        (["convert", "messages", "none.jsonl", "--out", "t.jsonl"], "none.jsonl: cannot be read"),
        (["convert", "messages", "a.png", "--out", "t.jsonl"], "is none of .jsonl, .json and .parquet"),
        (["convert", "messages", "rows.jsonl", "--out", "t.jsonl", "--tools", "zom"], "no tool 'zom'"),
        (["stats", "none.jsonl"], "none.jsonl: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    assert main(arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("medvista_jax.data.trajectories: ") and message in said


def test_lines_that_are_no_records_are_named(folder, capsys):
    assert main(["stats", str(folder / "rows.jsonl")]) == 1
    said = capsys.readouterr().out
    assert said.startswith("0 records") and said.count("no record: ") == 5
    assert f"no record: {folder / 'rows.jsonl'}, line 1: the record: 'messages' is no part of it" in said


def test_help_explains_the_formats(capsys):
    for arguments, words in ((["--help"], "convert"), (["convert", "--help"], "tools_kwargs")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0 and words in capsys.readouterr().out
