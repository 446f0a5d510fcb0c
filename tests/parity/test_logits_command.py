"""``python -m medvista_jax.models logits``: the whole way from two files to one, and what it says of bad input."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from medvista_jax.models.__main__ import main
from tests.parity.families import IMAGE, VOCAB, qwen3_vl, qwen_inputs
from tests.parity.reference import TOLERANCE, gap, their_logits

ROWS = ([5, (4, 6), 3], [2, (2, 2), 7])


def command(folder, inputs, out, *more) -> list[str]:
    return ["logits", str(folder), "--inputs", str(inputs), "--out", str(out), *more]


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_from_file_to_file(tmp_path):
    pair = qwen3_vl()
    inputs = qwen_inputs(pair, ROWS, left=(False, True))
    # As a processor leaves it: one array more, and integers of another size.
    extra = {"mm_token_type_ids": (inputs["input_ids"] == IMAGE).astype(np.int64)}
    path = write(tmp_path / "in.npz", **inputs | extra | {"attention_mask": inputs["attention_mask"].astype(np.int32)})
    done = subprocess.run(
        [sys.executable, "-m", "medvista_jax.models", *command(pair.folder, path, tmp_path / "out.npz")],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "not used: mm_token_type_ids" in done.stderr
    with np.load(tmp_path / "out.npz") as stored:
        logits = stored["logits"]
    assert logits.dtype == np.float32 and logits.shape == (*inputs["input_ids"].shape, VOCAB)
    assert gap(logits, their_logits(pair, inputs), inputs["attention_mask"]) <= TOLERANCE


def test_text_alone_needs_no_mask(tmp_path):
    pair, inputs = qwen3_vl(), qwen_inputs(qwen3_vl(), ([9],))
    path = write(tmp_path / "in.npz", input_ids=inputs["input_ids"])
    assert main(command(pair.folder, path, tmp_path / "out")) == 0
    logits = np.load(tmp_path / "out")["logits"]  # at exactly the path that was asked for
    assert gap(logits, their_logits(pair, inputs), inputs["attention_mask"]) <= TOLERANCE


def bad_inputs(tmp_path):
    good = qwen_inputs(qwen3_vl(), ROWS)
    ids, grid, pixels = good["input_ids"], good["image_grid_thw"], good["pixel_values"]
    yield "no inputs at", tmp_path / "none.npz"
    (tmp_path / "text.npz").write_text("hello")
    yield "no .npz file of plain arrays", tmp_path / "text.npz"
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"input_ids": ids}))
    yield "no .npz file of plain arrays", tmp_path / "pickle.npz"
    yield "no .npz file of plain arrays", write(tmp_path / "objects.npz", input_ids=np.array([ids], object))
    yield "no array 'input_ids'; it holds ids", write(tmp_path / "names.npz", ids=ids)
    cases = {
        "input_ids must be integers [B, T]": {"input_ids": ids[0]},
        f"input_ids must lie in 0…{VOCAB - 1}": {"input_ids": ids + VOCAB},
        "attention_mask is (2, 3), input_ids": {"attention_mask": np.ones((2, 3), int)},
        "input_ids has 6 image tokens (id 151), the images give 7": {
            "input_ids": np.where(np.cumsum(ids == IMAGE).reshape(ids.shape) == 7, 5, ids)
        },
        "without image_grid_thw": {"image_grid_thw": None},
        "positive integers [images, 3]": {"image_grid_thw": grid[:, 1:]},
        "videos are not supported": {"image_grid_thw": grid * np.array([2, 1, 1])},
        "multiples of merge = 2": {"image_grid_thw": grid + np.array([0, 1, 0])},
        "asks for pixel_values (28, 96), found (27, 96)": {"pixel_values": pixels[:-1]},
        "normalised floating-point numbers, not uint8": {"pixel_values": pixels.astype(np.uint8)},
    }
    for number, (message, change) in enumerate(cases.items()):
        arrays = {name: array for name, array in (good | change).items() if array is not None}
        yield message, write(tmp_path / f"case{number}.npz", **arrays)


def test_bad_inputs_get_one_line(tmp_path, capsys):
    for message, path in bad_inputs(tmp_path):
        assert main(command(qwen3_vl().folder, path, tmp_path / "out.npz")) == 2, message
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
        assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("out", ["nowhere/out.npz", "."])
def test_an_unwritable_place_is_found_before_the_work(out, tmp_path, capsys):
    path = write(tmp_path / "in.npz", **qwen_inputs(qwen3_vl(), ([9],)))
    assert main(command(tmp_path / "no_model", path, tmp_path / out)) == 2
    assert "cannot write" in capsys.readouterr().err


def test_no_model_folder(tmp_path, capsys):
    path = write(tmp_path / "in.npz", **qwen_inputs(qwen3_vl(), ([9],)))
    assert main(command(tmp_path / "no_model", path, tmp_path / "out.npz")) == 2
    assert "there is no folder" in capsys.readouterr().err
