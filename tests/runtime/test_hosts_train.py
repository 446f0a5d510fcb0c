"""Several real processes train together, write one checkpoint, are killed, and go on to the same bits."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from medvista_jax.runtime.interrupt import EXIT_CODES
from medvista_jax.runtime.metrics import read_metrics
from medvista_jax.runtime.peers import EXIT_PEER_LOST
from tests.runtime.hosts.launch import Processes
from tests.runtime.hosts.train import SILENCE, STEPS, initial_state

# The same program on the same devices; only the sums over devices may be taken in another order: a few units in the
# last place (6e-8) of a loss or of the largest parameter, after ten steps of Adam.
TOLERANCE = 1e-5
STOPS_WITHIN = SILENCE + 10.0


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Compiled programs, for all runs."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache) -> Path:
    """The run of one process that has all the devices."""
    folder = tmp_path_factory.mktemp("alone")
    with train(folder, cache, 1) as run:
        run.all_end()
    return folder


def train(folder: Path, cache: Path, count: int, send: str = "") -> Processes:
    """``count`` processes share four devices: two copies of the model, each in two slices."""
    common = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return Processes(
        folder / f"output{len(list(folder.glob('output*')))}",
        "tests.runtime.hosts.train",
        *(folder, "--mesh", "data=2,fsdp=2", "--signal", send),
        count=count,
        devices=4 // count,
        variables=dict.fromkeys(range(count), common),
    )


def params(folder: Path) -> dict[str, np.ndarray]:
    return dict(np.load(folder / "params.npz"))


def metrics(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in record.items() if k != "wall_seconds"} for record in read_metrics(folder / "metrics.jsonl")
    ]


def assert_close(folder: Path, other: Path) -> None:
    ours, theirs = metrics(folder), metrics(other)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs] == list(range(1, STEPS + 1))
    for name in ("loss", "entropy", "gradient_norm"):
        np.testing.assert_allclose([r[name] for r in ours], [r[name] for r in theirs], rtol=TOLERANCE)
    mine, reference = params(folder), params(other)
    assert mine.keys() == reference.keys()
    for path, value in reference.items():
        np.testing.assert_allclose(mine[path], value, rtol=0, atol=TOLERANCE * np.abs(value).max(), err_msg=path)
    before = initial_state().trainable
    assert all(np.abs(value - before[path]).max() > 1e-3 for path, value in reference.items())  # it has trained


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 1), (4, 0)], ids=["two", "four"])
def test_train_die_and_resume(tmp_path, cache, alone, count, victim):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with train(whole, cache, count) as run:
        run.all_end()
    assert_close(whole, alone)
    newest = whole / "checkpoints" / "sft" / str(STEPS) / "state"
    wrote = sorted(part.name for part in newest.iterdir() if part.name.startswith("ocdbt.process_"))
    assert wrote == [f"ocdbt.process_{number}" for number in range(count)]

    # A checkpoint every two steps, written meanwhile: the one before the newest is complete for certain.
    with train(broken, cache, count, f"5:{victim}:{signal.SIGKILL.value}") as run:
        assert run.ends(victim)[0] == -signal.SIGKILL
        for other in set(range(count)) - {victim}:
            status, said = run.ends(other, STOPS_WITHIN)
            assert status == EXIT_PEER_LOST, run.said()
            assert f"Process {victim} of {count} (pid {run.processes[victim].pid} on " in said
            assert "start all processes again with the same command and --resume" in said
    assert metrics(broken) == metrics(whole)[: len(metrics(broken))] and len(metrics(broken)) < STEPS

    with train(broken, cache, count, f"7:*:{signal.SIGKILL.value}") as run:
        run.all_end(status=-signal.SIGKILL)
        assert goes_on(run) >= 2

    if count == 2:  # a signal to one of them before the eighth step: all stop after the ninth, and have saved it
        with train(broken, cache, count, f"7:1:{signal.SIGTERM.value}") as run:
            run.all_end(status=EXIT_CODES[signal.SIGTERM])
            assert goes_on(run) >= 4
        assert metrics(broken) == metrics(whole)[:9]

    with train(broken, cache, count) as run:
        run.all_end()
        assert goes_on(run) == 9 if count == 2 else goes_on(run) >= 4
    assert metrics(broken) == metrics(whole)
    ours, uninterrupted = params(broken), params(whole)
    assert all(ours[path].tobytes() == value.tobytes() for path, value in uninterrupted.items())


def goes_on(run: Processes) -> int:
    """After which step; the same in all processes."""
    (left,) = {re.search(r"starts, (\d+) steps", output.read_text())[1] for output in run.outputs}
    return STEPS - int(left)
