"""A run that is killed (SIGKILL) at random moments and goes on each time ends as one that nobody touched."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest

from medvista_jax.runtime.metrics import read_metrics
from tests.runtime import small_training

KILLS = 20
STEPS = 240
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes():
    """Processes forked from a clean one that has imported everything and started nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runtime.small_training", "orbax.checkpoint"])
    return context


def begin(processes, out: Path):
    process = processes.Process(target=small_training.life, args=(out, STEPS))
    process.start()
    return process


def half_written(out: Path) -> set[str]:
    """Checkpoints under way."""
    folder = out / "checkpoints" / "small"
    return {path.name for path in folder.glob("*.orbax-checkpoint-tmp*")} if folder.exists() else set()


def until(process, true) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert process.is_alive(), "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def records(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def end_of(out: Path) -> tuple[list[bytes], list[dict]]:
    with np.load(out / "end.npz") as saved:
        leaves = [saved[name].tobytes() for name in saved.files]
    lines = read_metrics(out / "metrics.jsonl")
    return leaves, [{name: value for name, value in line.items() if name != "wall_seconds"} for line in lines]


def test_twenty_kills_and_the_same_end(processes, tmp_path):
    whole = begin(processes, tmp_path / "whole")
    whole.join(120)
    assert whole.exitcode == 0
    out, chance = tmp_path / "killed", random.Random(5)
    in_a_write = 0
    for kill in range(KILLS):
        process = begin(processes, out)
        if kill % 3 == 0:  # in the middle of writing a checkpoint that this life began
            before = half_written(out)
            until(process, lambda: half_written(out) - before)  # noqa: B023
        elif kill % 3 == 1:  # after some steps
            mark = records(out) + chance.randint(1, 12)
            until(process, lambda: records(out) >= mark)  # noqa: B023
            time.sleep(chance.uniform(0, 0.03))
        else:  # wherever it is: still starting, reading the checkpoint, cleaning up, in a step
            time.sleep(chance.uniform(0, 0.6))
        process.kill()
        process.join()
        assert process.exitcode == -9, "the run ended before it could be killed"
        in_a_write += bool(half_written(out))
    last = begin(processes, out)
    last.join(120)
    assert last.exitcode == 0
    assert in_a_write >= KILLS // 4
    assert not half_written(out)
    leaves, lines = end_of(out)
    expected_leaves, expected_lines = end_of(tmp_path / "whole")
    assert [line["step"] for line in expected_lines] == list(range(1, STEPS + 1))
    assert lines == expected_lines
    assert leaves == expected_leaves
