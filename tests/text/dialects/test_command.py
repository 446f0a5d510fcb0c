"""``python -m medvista_jax.text.dialects convert``."""

from __future__ import annotations

import json

import pytest

from medvista_jax.text.dialects.__main__ import main
from tests.text.dialects.samples import DEEPEYES, PIXEL_REASONER


def convert(tmp_path, capsys, lines, *options):
    file = tmp_path / "turns.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    try:
        code = main(["convert", "--file", str(file), *options])
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    return code, out, err


def test_a_turn_of_deepeyes_becomes_one_of_mini_o3(tmp_path, capsys):
    code, out, _ = convert(
        tmp_path, capsys, [json.dumps(DEEPEYES[0])], "--from", "deepeyes", "--to", "mini-o3", "--size", "1000x1000"
    )
    assert code == 0
    assert json.loads(out) == {
        "turn": '<think></think><grounding>{"bbox_2d": [0.01, 0.02, 0.1, 0.2], "source": "original_image"}</grounding>',
        "notes": ["not looked at: label"],
    }


def test_a_line_in_is_a_line_out_with_the_images_in_order(tmp_path, capsys):
    lines = [json.dumps(turn) for turn in PIXEL_REASONER]
    options = ["--from", "pixel-reasoner", "--to", "medvista", "--size", "1000x1000", "--size", "400x300"]
    code, out, _ = convert(tmp_path, capsys, [*lines, ""], *options)
    turns = [json.loads(line)["turn"] for line in out.splitlines()]
    assert (code, len(turns)) == (0, len(lines))
    assert turns[0].endswith('{"bbox_2d": [100, 200, 300, 400], "image_index": 0}}</tool_call>')
    assert turns[3].endswith("<answer>B</answer>")


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        (["{"], ["--size", "9x9"], "line 1: not JSON"),
        (['"a"', "3"], ["--size", "9x9"], "line 2: a JSON string is wanted, not int"),
        (['"a"'], ["--size", "512"], "'512' is no size; WIDTHxHEIGHT in pixels is wanted, such as 512x512"),
        (['"a"'], ["--size", "0x9"], "an image of 0x9 pixels"),
        (['"a"'], ["--size", "9x9", "--originals", "2"], "2 originals among 1 images"),
        (['"a"'], [], "--size"),
        (['"a"'], ["--size", "9x9", "--from", "klingon"], "invalid choice: 'klingon'"),
    ],
)
def test_what_is_not_of_the_form_ends_with_2_and_a_message(tmp_path, capsys, lines, options, words):
    code, out, err = convert(tmp_path, capsys, lines, "--from", "deepeyes", "--to", "medvista", *options)
    assert (code, out) == (2, "")
    assert words in err and "Traceback" not in err


def test_a_file_that_is_not_there_ends_with_2(capsys, tmp_path):
    options = ["--from", "deepeyes", "--to", "medvista", "--size", "9x9"]
    assert main(["convert", "--file", str(tmp_path / "none"), *options]) == 2
    assert "none" in capsys.readouterr().err
