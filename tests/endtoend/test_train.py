"""experiments/train.py: a small Qwen3-VL of the hub's layout learns on a mesh, on one host and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medvista_jax.runtime.metrics import read_metrics
from medvista_jax.text.hub_chat import load_chat
from tests.checkpoints import TINY, tensors_of
from tests.runtime.hosts.launch import ROOT, Processes
from tests.text import hub_folders

SIZES = ("--items", 8, "--turns", 2, "--turn-tokens", 24, "--prompt-slots", 1100, "--view", 16, "--tools", "zoom_in")
STAGES = ("--sft.batch", 4, "--sft.optimizer.steps", 2, "--sft.optimizer.learning-rate", 1e-3)
STAGES += ("--grpo.prompts", 4, "--grpo.group", 2, "--grpo.optimizer.steps", 2)
QUICK = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # most of the time is the compiler's


def python(*command: object, devices: int = 1) -> subprocess.CompletedProcess:
    variables = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        **QUICK,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    line = [sys.executable, *map(str, command)]
    return subprocess.run(line, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A random small Qwen3-VL under a vocabulary of Qwen's kind."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    hub_folders.write_folder(folder, "qwen3", jinja=hub_folders.QWEN3_VL)
    symbol = load_chat(folder).tokenizer.special["<|image_pad|>"]
    config = TINY["qwen3_vl"] | {"image_token_id": symbol, "dtype": "float32"}
    config["text_config"] = config["text_config"] | {"vocab_size": 640, "dtype": "float32"}
    hub_folders.write_folder(folder, "qwen3", jinja=hub_folders.QWEN3_VL, **config)
    save_file({name: 0.2 * value for name, value in tensors_of(folder).items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def lessons(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lessons")
    about = ("--teach", "--items", 8, "--samples", 1, "--view", 32, "--turns", 2, "--tools", "zoom_in", "--out", folder)
    run = python("experiments/sample_trajectories.py", *about)
    assert run.returncode == 0, run.stderr
    return folder / "trajectories.jsonl"


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "model" / "model.safetensors")


def records(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in record.items() if k != "wall_seconds"} for record in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.mark.slow
def test_one_host_and_two_train_the_same_model(hub, lessons, tmp_path):
    command = ("--model", hub, *SIZES, "--sft.trajectories", lessons, *STAGES)
    alone, both = tmp_path / "alone", tmp_path / "both"
    run = python("experiments/train.py", *command, "--mesh", "fsdp=2,tensor=2", "--out", alone, devices=4)
    assert run.returncode == 0, run.stderr
    assert [(r["stage"], r["step"]) for r in records(alone)] == [("sft", 1), ("sft", 2), ("grpo", 1), ("grpo", 2)]
    before, after = load_file(hub / "model.safetensors"), weights(alone)
    assert before.keys() == after.keys()
    moved = {name for name, value in after.items() if not np.array_equal(value, before[name])}
    assert moved and all("visual" not in name for name in moved)  # the decoder learns, tower and connector lie still
    assert json.loads((alone / "model" / "config.json").read_text()) == json.loads((hub / "config.json").read_text())

    with Processes(
        tmp_path / "said",
        "experiments.train",
        *(*command, "--mesh", "fsdp=2,tensor=2", "--out", both, "--checkpoints", both / "checkpoints"),
        count=2,
        devices=2,
        variables=dict.fromkeys(range(2), QUICK),
    ) as run:
        run.all_end(seconds=600)
    for mine, theirs in zip(records(both), records(alone), strict=True):
        for name in ("loss", "gradient_norm"):
            if name in theirs:
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-5, atol=1e-6)
    for name, value in weights(
        both
    ).items():  # the same programs on the same mesh; sums over hosts round in their order
        np.testing.assert_allclose(value, after[name], atol=1e-5 * np.abs(after[name]).max(), err_msg=name)

    # What is finished is not done again, and the model that is there stays.
    again = python("experiments/train.py", *command, "--mesh", "fsdp=2,tensor=2", "--out", alone, "--resume", devices=4)
    assert again.returncode == 0 and "[grpo] reused: 2 steps were done before" in again.stderr, again.stderr
    assert "is there already and stays" in again.stderr


@pytest.mark.slow
def test_adapters_learn_alone_and_are_merged(hub, tmp_path):
    stages = ("--lora-rank", 2, "--grpo.prompts", 2, "--grpo.group", 2, "--grpo.optimizer.steps", 1)
    stages += ("--grpo.optimizer.learning-rate", 1e-2)
    run = python(
        "experiments/train.py", "--model", hub, *SIZES, *stages, "--mesh", "fsdp=2", "--out", tmp_path, devices=2
    )
    assert run.returncode == 0, run.stderr
    before, after = load_file(hub / "model.safetensors"), weights(tmp_path)
    assert before.keys() == after.keys()
    assert {name for name in after if not np.array_equal(after[name], before[name])} <= {
        name for name in after if "language_model" in name and "proj" in name
    }


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--grpo.reward", "gold"), "--grpo.reward 'gold' is unknown; there are"),
        (("--sft.trajectories", "nowhere.jsonl"), "--sft.trajectories nowhere.jsonl is no file"),
        (("--grpo.optimizer.steps", 0), "nothing to do"),
        (("--lora-rank", -1), "--lora-rank -1 must be 0"),
        (("--mesh", "fsdp=3"), "needs 3 devices"),
        ((), "no config.json"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(tmp_path, more, says):
    run = python("experiments/train.py", "--model", tmp_path, "--out", tmp_path / "out", *more)
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    assert run.stderr.strip().splitlines()[-1].startswith("train: ") and says in run.stderr, run.stderr
