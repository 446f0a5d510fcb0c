"""The bench of loading runs, cleans up and tells the truth about sizes; a checkpoint of a few MB."""

import json
import os
import subprocess
import sys
from pathlib import Path

from medvista_jax.models.tensor_files import DTYPES

BENCH = Path(__file__).parents[2] / "experiments" / "bench_load.py"


def test_bench(tmp_path):
    out, scratch = tmp_path / "load.json", tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, str(BENCH), "--gib", "0.004", "--width", "64", "--vocab", "3000", "--json", str(out)]
    environment = os.environ | {"PYTHONPATH": str(BENCH.parents[1]), "TMPDIR": str(scratch), "JAX_PLATFORMS": "cpu"}
    command += ["--cold", "--variants", "widen"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "widen" in run.stdout
    assert "loading, MiB] done" in run.stderr
    (result,) = json.loads(out.read_text())
    assert 0.004 * 2**30 <= result["stored_bytes"] < 0.008 * 2**30
    assert result["params_bytes"] == result["stored_bytes"] * DTYPES["F32"].itemsize // DTYPES["BF16"].itemsize
    assert result["peak_bytes"] - result["params_bytes"] == result["beyond_bytes"] < 2**30
    assert list(scratch.iterdir()) == []
