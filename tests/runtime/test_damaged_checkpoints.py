"""Checkpoints that something happened to after they were written."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.runtime.checkpoints import CheckpointError, Checkpoints
from medvista_jax.runtime.disk import DiskError


def tree_of(step: int) -> dict:
    # Large enough that the values lie in a data file and not within the index.
    return {
        "w": jax.random.normal(jax.random.key(step), (300, 5)),
        "n": np.arange(3) + step,
        "key": jax.random.key(step),
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, tree_of(step), {"stage": "sft"}, {"next": step})
    return tmp_path


def data_file(checkpoint: Path) -> Path:
    """The largest file: the values of the arrays."""
    return max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def other_number(path: Path) -> None:
    """Valid JSON that says something else."""
    about = json.loads(path.read_text())
    about["metadata"]["stage"] = "grpo"
    path.write_text(json.dumps(about))


DAMAGE = {
    "one changed bit in an array": lambda step: flip(data_file(step)),
    "an array cut short": lambda step: half(data_file(step)),
    "an array gone": lambda step: data_file(step).unlink(),
    "index cut short": lambda step: half(step / "state" / "manifest.ocdbt"),
    "index gone": lambda step: (step / "state" / "manifest.ocdbt").unlink(),
    "no arrays": lambda step: shutil.rmtree(step / "state"),
    "metadata cut short": lambda step: half(step / "about" / "metadata"),
    "metadata empty": lambda step: (step / "about" / "metadata").write_text(""),
    "metadata gone": lambda step: (step / "about" / "metadata").unlink(),
    "metadata changed": lambda step: other_number(step / "about" / "metadata"),
    "no commit marker": lambda step: (step / "commit_success.txt").unlink(),
    "an empty folder": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_the_one_before_it_is_used_and_said(folder, name, capfd):
    said: list[str] = []
    DAMAGE[name](folder / "30")
    with Checkpoints(folder, keep=3, say=said.append) as checkpoints:
        step, restored, metadata = checkpoints.restore(tree_of(0))
        assert (step, metadata, checkpoints.local(20)) == (20, {"stage": "sft"}, {"next": 20})
        assert checkpoints.steps() == [10, 20] and checkpoints.damaged() == ["30.damaged"]
        # The number is free again.
        checkpoints.save(30, tree_of(30))
        assert checkpoints.restore(tree_of(0))[0] == 30
    assert np.array_equal(restored["w"], tree_of(20)["w"]) and np.array_equal(restored["n"], [20, 21, 22])
    assert jax.random.bits(restored["key"]) == jax.random.bits(jax.random.key(20))
    (line,) = said
    assert line.startswith(f"checkpoint 30 in {folder} is damaged and set aside as 30.damaged: ") and "\n" not in line
    assert "".join(capfd.readouterr()) == ""


def test_a_changed_array_is_named(folder):
    said: list[str] = []
    flip(data_file(folder / "30"))
    with Checkpoints(folder, say=said.append) as checkpoints:
        checkpoints.restore(tree_of(0))
    assert "the checksum of w is wrong" in said[0]


def test_when_all_are_damaged_nothing_starts_anew(folder):
    for step in (10, 20, 30):
        flip(data_file(folder / str(step)))
    for _ in range(2):  # the second time they are set aside already
        with Checkpoints(folder, say=lambda line: None) as checkpoints:
            with pytest.raises(
                CheckpointError, match=r"every .* damaged \(10.damaged, 20.damaged, 30.damaged\).*begin"
            ):
                checkpoints.restore(tree_of(0))


def test_a_step_that_was_asked_for_is_not_replaced_by_another(folder):
    flip(data_file(folder / "30"))
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError, match="checkpoint 30 in .* is damaged: the checksum of w"):
            checkpoints.restore(tree_of(0), step=30)
        assert checkpoints.steps() == [10, 20, 30]


@pytest.mark.parametrize("trouble", [MemoryError("no"), PermissionError("no"), jax.errors.JaxRuntimeError("no")])
def test_want_of_memory_or_permission_is_no_damage(folder, monkeypatch, trouble):
    def refuse(*arguments, **named):
        raise trouble

    with Checkpoints(folder) as checkpoints:
        monkeypatch.setattr(checkpoints._arrays, "restore", refuse)
        with pytest.raises(type(trouble)):
            checkpoints.restore(tree_of(0))
        assert checkpoints.steps() == [10, 20, 30]


def test_a_tree_that_does_not_fit_is_no_damage(folder):
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(CheckpointError, match="does not fit"):
            checkpoints.restore({"w": jnp.zeros(3)})
        assert checkpoints.steps() == [10, 20, 30]


def test_what_a_kill_left_half_written_is_removed(folder):
    left = folder / "35.orbax-checkpoint-tmp"
    shutil.copytree(folder / "30", left)
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [10, 20, 30]
        checkpoints.save(40, tree_of(40))
        assert checkpoints.restore(tree_of(0))[0] == 40
    assert not left.exists()


def test_a_checkpoint_of_other_processes_is_refused(folder, monkeypatch):
    with Checkpoints(folder) as checkpoints:
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        with pytest.raises(CheckpointError, match="data iterators of 1 processes; 2 cannot"):
            # Reading alone needs no other process.
            checkpoints._undamaged = lambda step, read: {"local": [{"next": 30}]}
            checkpoints.local(30)


def test_a_disk_that_fills_up_says_what_is_kept(folder, monkeypatch):
    with Checkpoints(folder) as checkpoints:

        def fail():
            raise ValueError("writing w") from OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoints._manager, "check_for_errors", fail)
        with pytest.raises(
            DiskError, match=r"disk is full: .* not completed; the newest complete one is 30\. .*--resume"
        ):
            checkpoints.check()


@pytest.mark.parametrize("error", [ValueError("nothing to do with it"), OSError(errno.EIO, "Input/output error")])
def test_other_errors_of_writing_stay_what_they_are(folder, monkeypatch, error):
    with Checkpoints(folder) as checkpoints:

        def fail():
            raise error

        monkeypatch.setattr(checkpoints._manager, "check_for_errors", fail)
        with pytest.raises(type(error), match=str(error).replace("[", r"\[").replace("]", r"\]")):
            checkpoints.check()
