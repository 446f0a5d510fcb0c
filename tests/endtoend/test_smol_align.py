"""The alignment of the packaged model as a user runs it, a few steps of every stage: files, model, Ctrl-C, resume."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from medvista_jax import models
from medvista_jax.models.medvista_smol.packaged import packaged_folder

ROOT = Path(__file__).resolve().parents[2]
CONDITIONS = ["random connector", "words in place", "captions and questions"]

pytestmark = pytest.mark.slow


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "experiments/smol_align.py", "--preset", "short", "--out", str(out), *more]


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("align") / "whole"
    done = finish(command(out))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "random connector" in done.stdout
    return out


def connector(out: Path) -> dict[str, np.ndarray]:
    weights = load_file(out / "model" / "model.safetensors")
    return {name: value for name, value in weights.items() if name.startswith("multi_modal_projector.")}


def test_tables_curves_and_metrics(run):
    stored = json.loads((run / "table.json").read_text())
    assert [(row["condition"], row["task"]) for row in stored["rows"]] == [
        (condition, task) for condition in CONDITIONS for task in ("plane", "side")
    ]
    assert all(row["n"] == 8 and sum(row["answers"].values()) == 8 for row in stored["rows"])
    text = (run / "table.md").read_text()
    assert "split test" in text and "Seed 0" in text and re.search(r"\d+\.\d \(\d+\.\d–\d+\.\d\)", text)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "captions.md").read_text().count("test/") == 6
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in records] == [("words", k + 1) for k in range(6)] + [
        ("lessons", k + 1) for k in range(4)
    ]


def test_only_the_connector_has_changed(run):
    before = load_file(packaged_folder() / "model.safetensors")
    after = load_file(run / "model" / "model.safetensors")
    assert set(before) == set(after)
    changed = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert changed == set(connector(run))


def test_the_model_opens_with_the_view_it_was_trained_on(run):
    model, params = models.load(run / "model")
    assert model.image_size == (56, 56) and model.tokens_per_image == 4
    features = model.encode_images(params, np.zeros((1, 56, 56, 1), np.uint8))
    assert features.shape == (1, 4, 576)
    settings = json.loads((run / "model" / "preprocessor_config.json").read_text())
    assert settings["size"] == {"height": 56, "width": 56}


def test_a_finished_run_is_reused(run):
    before = connector(run)
    done = finish(command(run))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[words] reused" in done.stderr and "[lessons] reused" in done.stderr
    assert all(np.array_equal(value, before[name]) for name, value in connector(run).items())


def test_stop_and_resume_give_the_same_model(run, tmp_path):
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        command(out, "--resume"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = ""
    deadline = time.monotonic() + 600
    while "[words] starts" not in seen and time.monotonic() < deadline:
        seen += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=600)
    assert process.returncode == 130, rest[-3000:]
    assert "--resume" in rest and not (out / "model").exists()
    done = finish(command(out, "--resume"))
    assert done.returncode == 0, done.stderr[-3000:]
    for name, value in connector(out).items():
        np.testing.assert_array_equal(value, connector(run)[name])
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["stage"] == "lessons"] == [1, 2, 3, 4]
