import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.runtime.metrics import MetricsLog, read_metrics, truncate


def write(path, stage, steps):
    with MetricsLog(path) as log:
        for step in steps:
            log.write(stage, step, {"loss": 1 / (step + 1)})


def names(path):
    return [(record["stage"], record["step"]) for record in read_metrics(path)]


def test_scalars_of_every_origin(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write("sft", 2, {"a": jnp.float32(0.5), "b": np.int64(3), "c": True, "d": jnp.bfloat16(1.5), "e": "x"})
        # Readable while the run goes on.
        (record,) = read_metrics(path)
    assert record.pop("wall_seconds") >= 0
    assert record == {"stage": "sft", "step": 2, "a": 0.5, "b": 3, "c": True, "d": 1.5, "e": "x"}


def test_not_finite_numbers_stay_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write("sft", 0, {"loss": jnp.nan, "up": jnp.inf, "down": -math.inf})
        log.write("sft", 1, {"loss": 1.0})
    truncate(path, 0)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    json.loads(path.read_text(), parse_constant=refuse)
    (record,) = read_metrics(path)
    assert math.isnan(record["loss"]) and record["up"] == math.inf and record["down"] == -math.inf


def test_arrays_and_reserved_names_are_refused(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl") as log:
        with pytest.raises(TypeError, match="'loss' must be a scalar"):
            log.write("sft", 0, {"loss": jnp.ones(3)})
        with pytest.raises(ValueError, match="'step' collides"):
            log.write("sft", 0, {"step": 1})
    assert read_metrics(tmp_path / "m.jsonl") == []


def test_resume_drops_what_will_be_written_again(tmp_path):
    path = tmp_path / "m.jsonl"
    for stage in ("perception", "sft", "grpo"):
        write(path, stage, range(4))
    assert truncate(path, 1, "sft") == 6
    assert names(path) == [("perception", k) for k in range(4)] + [("sft", 0), ("sft", 1)]
    write(path, "sft", (2, 3))
    assert names(path)[-3:] == [("sft", 1), ("sft", 2), ("sft", 3)]
    assert truncate(path, 0) == 6
    assert names(path) == [("perception", 0), ("sft", 0)]
    assert truncate(tmp_path / "absent.jsonl", 3) == 0


def test_rewinding_keeps_the_first_records_of_a_stage_and_all_of_others(tmp_path):
    path = tmp_path / "m.jsonl"
    write(path, "sft", (1, 2))
    with MetricsLog(path) as log:
        assert (log.position("sft"), log.position("grpo")) == (2, 0)
        log.write("grpo", 1, {"loss": jnp.nan})
        log.write("sft", 3, {"loss": 2.0})
        assert log.position("sft") == 3
        assert log.rewind("sft", 2) == 2
        assert names(path) == [("sft", 1), ("sft", 2), ("grpo", 1)]
        log.write("sft", 3, {"loss": 3.0})
        assert log.position("sft") == 3
        assert log.rewind("sft", 7) == 3  # the file has lost four
    assert names(path) == [("sft", 1), ("sft", 2), ("grpo", 1), ("sft", 3)]
    assert math.isnan(read_metrics(path)[2]["loss"]) and read_metrics(path)[3]["loss"] == 3.0


def test_one_process_of_several_writes(tmp_path):
    with MetricsLog(tmp_path / "m.jsonl", writes=False) as log:
        log.write("sft", 1, {"loss": 1.0})
        assert log.position("sft") == 1
        assert log.rewind("sft", 40) == 40
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_is_cut_off_and_time_goes_on(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"stage": "sft", "step": 0, "wall_seconds": 100.0}\n{"stage": "sft", "st')
    assert names(path) == [("sft", 0)]
    write(path, "sft", [1])
    assert names(path) == [("sft", 0), ("sft", 1)]
    assert 100 <= read_metrics(path)[1]["wall_seconds"] < 160


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"m\.jsonl:2: not JSON"):
        read_metrics(path)
