"""A small plan through the real TPU compiler: it fits, holds the splash kernel, and its memory does not grow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(sys.prefix) / "share/libtpu/libtpu/libtpu.so"
PEAKS = {"update": 64_129_536, "step": 98_127_360}
"""Bytes a chip, as jax 0.10.2 and libtpu 0.0.42.1 gave them when this was written."""


pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"there is no TPU compiler at {LIBRARY}")


def call(*options: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"TPU_LIBRARY_PATH": str(LIBRARY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "medvista_jax.runtime.aot", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("aot") / "small.json"
    run = call("--small", "--programs", "update,step", "--json", str(path))
    assert run.returncode == 0, run.stderr[-3000:]
    text = path.read_text()
    again = call("--small", "--programs", "step", "--json", str(path))
    assert again.returncode == 0 and "all of it is in the --json file" in again.stdout and path.read_text() == text
    return json.loads(text)["small"]["programs"], run.stdout


def test_a_file_of_something_else_is_not_overwritten(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("[1, 2]")
    run = call("--small", "--json", str(path))
    assert run.returncode == 2 and "was not written by this command" in run.stderr and path.read_text() == "[1, 2]"


@pytest.mark.parametrize("name", PEAKS)
def test_memory_does_not_grow(found, name):
    programs, _ = found
    assert programs[name]["peak"] <= 1.1 * PEAKS[name], f"{name}: {programs[name]['peak']} bytes a chip"
    assert programs[name]["peak"] > 0.5 * PEAKS[name], "far less than before: write the new peak down"


def test_the_splash_kernel_is_inside(found):
    programs, _ = found
    # Forward, again for the gradient, and its two halves; the step's prefill attends by it too, in both layers.
    assert programs["update"]["splash"] == 4 and programs["step"]["splash"] == 4 + 2


def test_the_update_computes_what_the_model_asks_for_and_remat(found):
    update = found[0]["update"]
    assert 1.3 < update["flops"] / update["model_flops"] < 1.4 and update["open_loops"] == 0


def test_a_mesh_may_split_a_side_of_the_chips():
    """As jax.make_mesh does: four by four of an axis of eight."""
    code = (
        "from medvista_jax.runtime.aot.measure import topology_mesh as t; print(t('v5e:8x8', (1, 16, 4)).devices.shape)"
    )
    environment = os.environ | {"TPU_LIBRARY_PATH": str(LIBRARY), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and "(1, 16, 4)" in run.stdout, run.stderr[-2000:]


def test_it_says_what_it_found(found):
    assert "fits" in found[1] and "all-gather" in found[1] and "times the model's" in found[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--topology", "v6e:4x4", "--mesh", "fsdp=3"), "needs 3 chips, v6e:4x4 has 16"),
        (("--topology", "v9:4x4", "--mesh", "fsdp=16"), "no TPU compiler for topology 'v9:4x4'"),
        (("--mesh", "model=16"), "mesh axis 'model' is unknown"),
        (("--model", "nobody/knows"), "model 'nobody/knows' is unknown"),
        (("--all", "--topology", "v6e:4x4", "--programs", "none"), "'none' is none of prefill"),
        (("--context", "1000"), "must be a multiple of 128"),
        (("--crops", "20"), "a longer context or fewer crops"),
        (("--programs", "rolout"), "'rolout' is none of prefill"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(options, says):
    run = call(*options)
    assert run.returncode == 2 and says in run.stderr and "Traceback" not in run.stderr, run.stderr[-2000:]
