from __future__ import annotations

import errno
import os
import shutil
import signal
from collections import namedtuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medvista_jax.runtime.checkpoints import CheckpointError, Checkpoints
from medvista_jax.runtime.disk import DiskError
from medvista_jax.runtime.metrics import MetricsLog, read_metrics
from medvista_jax.runtime.stages import Interrupted, NotFinite
from tests import tiny
from tests.runtime import small_training
from tests.runtime.small_training import Draws, Queue, initial, stage, train


def metrics_of(out):
    lines = read_metrics(out / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name != "wall_seconds"} for line in lines]


def ask_to_stop(one, after, number=signal.SIGTERM):
    """The stage, sent a signal while it makes the batch of step ``after``."""
    batch = one.batch

    def asking(step):
        if step == after - 1:
            os.kill(os.getpid(), number)
        return batch(step)

    one.batch = asking
    return one


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twelve steps without a break."""
    out = tmp_path_factory.mktemp("whole")
    state, _ = train(out, stage(12))
    return state, metrics_of(out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_and_resumed_it_ends_the_same(tmp_path, whole, number, code, capfd):
    with pytest.raises(Interrupted, match="stopped in stage small after step 7 of 12") as caught:
        train(tmp_path, ask_to_stop(stage(12), 7, number))
    assert caught.value.exit_code == code
    state, said = train(tmp_path, stage(12), resume=True)
    assert "[small] starts, 5 steps" in said
    assert tiny.same_bits(state, whole[0])
    assert metrics_of(tmp_path) == whole[1]
    assert [line["step"] for line in whole[1]] == list(range(1, 13))


@pytest.mark.parametrize("lost", ["data", "queue"])
def test_what_is_carried_decides_the_result(tmp_path, whole, lost):
    """Without it the resumed run would go on with other batches: the promise is not kept by chance."""
    with pytest.raises(Interrupted):
        train(tmp_path, ask_to_stop(stage(12), 7))
    one = stage(12)
    one.carried = {name: carried for name, carried in one.carried.items() if name != lost}
    state, _ = train(tmp_path, one, resume=True)
    assert not tiny.same_bits(state, whole[0])


def test_records_behind_the_checkpoint_go_and_other_stages_keep_theirs(tmp_path, whole):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write("before", 1, {"loss": 1.0})
    with pytest.raises(Interrupted):
        train(tmp_path, ask_to_stop(stage(12), 7))
    with MetricsLog(tmp_path / "metrics.jsonl") as log:  # what a run writes between its last checkpoint and a kill
        log.write("small", 8, {"loss": -1.0})
        log.write("after", 1, {"loss": 3.0})
    train(tmp_path, stage(12), resume=True)
    lines = metrics_of(tmp_path)
    assert [line for line in lines if line["stage"] == "small"] == whole[1]
    assert [line["stage"] for line in lines if line["stage"] != "small"] == ["before", "after"]


def test_records_of_a_stage_that_begins_anew_go(tmp_path, whole):
    with MetricsLog(tmp_path / "metrics.jsonl") as log:  # killed before its first checkpoint
        log.write("small", 1, {"loss": -1.0})
    train(tmp_path, stage(12), resume=True)
    assert metrics_of(tmp_path) == whole[1]


def test_lost_records_are_said(tmp_path):
    with pytest.raises(Interrupted):
        train(tmp_path, ask_to_stop(stage(12), 7))
    (tmp_path / "metrics.jsonl").unlink()
    _, said = train(tmp_path, stage(12), resume=True)
    assert "has lost records of steps before 7" in said


def test_without_resume_it_starts_over_and_a_finished_one_is_reused(tmp_path, whole):
    with pytest.raises(Interrupted):
        train(tmp_path, ask_to_stop(stage(12), 7))
    state, said = train(tmp_path, stage(12))
    assert "[small] starts, 12 steps" in said and tiny.same_bits(state, whole[0])
    state, said = train(tmp_path, stage(12))
    assert "reused" in said and tiny.same_bits(state, whole[0])
    _, said = train(tmp_path, stage(12, identity="of another"))
    assert "[small] starts, 12 steps" in said


def break_newest(out):
    folder = out / "checkpoints" / "small"
    newest = max((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    (newest / "state" / "manifest.ocdbt").write_bytes(b"")
    return newest.name


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path, whole):
    with pytest.raises(Interrupted):
        train(tmp_path, ask_to_stop(stage(12), 7))
    assert break_newest(tmp_path) == "7"
    state, said = train(tmp_path, stage(12), resume=True)
    assert "checkpoint 7 in" in said and "set aside as 7.damaged" in said and "[small] starts, 7 steps" in said
    assert tiny.same_bits(state, whole[0]) and metrics_of(tmp_path) == whole[1]


def test_the_end_of_a_finished_stage_is_made_again_where_it_is_damaged(tmp_path, whole):
    train(tmp_path, stage(12))
    (tmp_path / "checkpoints" / "small" / "12" / "about" / "metadata").write_text("{")
    state, said = train(tmp_path, stage(12))
    assert "[small] starts, 2 steps" in said
    assert tiny.same_bits(state, whole[0]) and metrics_of(tmp_path) == whole[1]


def test_when_every_checkpoint_is_damaged_it_does_not_begin_anew(tmp_path):
    train(tmp_path, stage(12))
    break_newest(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "small" / "10")
    for resume in (True, True, False):
        with pytest.raises(CheckpointError, match="every checkpoint in .* is damaged"):
            train(tmp_path, stage(12), resume=resume)


def test_grains_iterators_fit_as_they_are(tmp_path):
    def of_grain():
        data = grain.MapDataset.range(50).shuffle(seed=1).repeat().batch(4).to_iter_dataset()
        iterator = iter(data)
        one = stage(12, carried={"data": iterator})
        one.batch = lambda number: np.cos(np.outer(next(iterator), np.arange(1, 7))).astype(np.float32)
        return one

    expected, _ = train(tmp_path / "whole", of_grain())
    with pytest.raises(Interrupted):
        train(tmp_path / "broken", ask_to_stop(of_grain(), 7))
    state, _ = train(tmp_path / "broken", of_grain(), resume=True)
    assert tiny.same_bits(state, expected)
    assert metrics_of(tmp_path / "broken") == metrics_of(tmp_path / "whole")


def poisoned(one, at, place=(2, 3)):
    """The stage with one NaN in the batch of step ``at``."""
    batch = one.batch

    def bad(number):
        values = batch(number)
        if number == at - 1:
            values[place] = np.nan
        return values

    one.batch = bad
    return one


@pytest.mark.parametrize("at", [8, 10, 12])  # between saves; the step that is saved; the last one
def test_a_step_with_nan_stops_and_is_not_saved(tmp_path, whole, at):
    with pytest.raises(NotFinite) as caught:
        train(tmp_path, poisoned(stage(12), at))
    text = str(caught.value)
    assert text.startswith(f"step {at} of stage small is not finite: loss is nan, gradient_norm is nan\n")
    good = (at - 1) // 5 * 5
    assert f"the last good state is checkpoint {good} in {tmp_path}/checkpoints/small." in text
    with Checkpoints(tmp_path / "checkpoints" / "small") as checkpoints:
        assert checkpoints.latest() == good
        _, state, _ = checkpoints.restore(initial())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.trainable))
    state, _ = train(tmp_path, stage(12), resume=True)  # the data was mended
    assert tiny.same_bits(state, whole[0])


def test_before_the_first_checkpoint_there_is_none_to_name(tmp_path):
    with pytest.raises(NotFinite, match="no checkpoint of this stage was written before it"):
        train(tmp_path, poisoned(stage(12), 2))


def test_the_gradient_that_was_first_is_named(tmp_path):
    """Only one column of one gradient is NaN; the clip by the global norm spreads it over every parameter."""

    @jax.jit
    def step(state, batch):
        def loss_of(trainable):
            spoilt = jnp.where(batch[0, 0] > 5, jnp.nan, 0.0)
            return jnp.sum(trainable["layer/kernel"][:, 2] * spoilt) + jnp.sum(trainable["head/kernel"] ** 2)

        gradients = jax.grad(loss_of)(state.trainable)
        metrics = {"gradient_norm": jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in gradients.values()))}
        return small_training.apply_gradients(state, gradients, small_training.OPTIMIZER), metrics

    one = stage(12, step=step, batch=lambda number: np.full((1, 1), 9.0 if number == 2 else 1.0), shown=())
    with pytest.raises(NotFinite) as caught:
        train(tmp_path, one)
    assert str(caught.value).splitlines()[:3] == [
        "step 3 of stage small is not finite: gradient_norm is nan",
        "  gradient of layer/kernel: 6 of 48 values are NaN",
        "Nothing of it is saved; no checkpoint of this stage was written before it. "
        "A smaller learning rate or a tighter gradient clip may help.",
    ]


def test_a_parameter_that_no_metric_shows_is_found_before_it_is_saved(tmp_path):
    @jax.jit
    def step(state, batch):
        kernel = state.trainable["layer/kernel"]
        kernel = jnp.where(batch == 6, kernel.at[1, :3].set(jnp.inf), kernel)
        state = state.replace(trainable={**state.trainable, "layer/kernel": kernel})
        return state, {"loss": jnp.zeros(()), "of_no_one": jnp.nan}

    # What was infinite at the start, such as a mask, is nobody's fault.
    start = initial()
    start = start.replace(frozen={"mask": jnp.array([0.0, -jnp.inf])})
    one = stage(12, step=step, batch=lambda number: np.float32(number))
    with pytest.raises(NotFinite) as caught:
        train(tmp_path, one, state=start)
    assert str(caught.value).splitlines()[:2] == [
        "step 10 of stage small is not finite: found before it was saved",
        "  trainable/layer/kernel: 3 of 48 values are infinite",
    ]
    assert "checkpoint 5" in str(caught.value)


Usage = namedtuple("Usage", "total used free")


def test_too_little_room_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**6, 10**6 - 2000, 2000))
    one = stage(12, batch=lambda number: pytest.fail("a step was made"))
    with pytest.raises(DiskError, match="3 of 708 B need 2.1 kB, 2.0 kB are free"):
        train(tmp_path, one)
    train(tmp_path, stage(10))  # writes two checkpoints, never a third


def test_a_disk_that_fills_up_says_what_is_kept(tmp_path, monkeypatch):
    write = MetricsLog.write

    def full(self, name, step, values):
        if step == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, name, step, values)

    monkeypatch.setattr(MetricsLog, "write", full)
    with pytest.raises(
        DiskError, match=r"disk is full: .*metrics.jsonl cannot be written at step 8 .* checkpoint 5 in"
    ):
        train(tmp_path, stage(12))


def test_a_checkpoint_that_could_not_be_written_stops_the_run_soon(tmp_path, monkeypatch):
    seen = []
    check = Checkpoints.check

    def failing(self):
        seen.append(len(seen))
        if len(seen) == 6:
            raise DiskError("the disk is full")
        check(self)

    monkeypatch.setattr(Checkpoints, "check", failing)
    with pytest.raises(DiskError):
        train(tmp_path, stage(12))
    assert len(seen) == 6  # steps 1 to 4, 6 and 7: not only when the next checkpoint is due


def test_a_state_on_a_mesh_stays_there(tmp_path):
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    there = NamedSharding(mesh, PartitionSpec())
    train(tmp_path, stage(5), state=jax.device_put(initial(), there))
    state, said = train(tmp_path, stage(5), state=jax.device_put(initial(), there))
    assert "reused" in said
    assert all(leaf.sharding == there and leaf.committed for leaf in jax.tree.leaves(state))
    state, _ = train(tmp_path, stage(5))
    # As a fresh state: the step does not compile again.
    assert not any(leaf.committed for leaf in jax.tree.leaves(state))


def test_the_states_of_the_small_training_do_what_they_say():
    draws, other = Draws(), Draws()
    next(draws)
    state = draws.get_state()
    other.set_state(state)
    assert isinstance(state, bytes) and np.array_equal(next(other), next(draws))
    queue = Queue()
    queue.set_state([3])
    assert queue.get_state() == [3]
