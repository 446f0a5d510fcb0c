"""What a scheduler, or a person, learns from the exit status of an experiment and from its last line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from medvista_jax.runtime.checkpoints import CheckpointError
from medvista_jax.runtime.disk import DiskError
from medvista_jax.runtime.stages import Interrupted, NotFinite

EXPERIMENTS = {"quickstart": "run", "smol_align": "run_experiment", "smol_grpo": "run_experiment"}
FOLDER = Path(__file__).resolve().parents[2] / "experiments"
ENDS = (
    (Interrupted("stopped after step 3", 130), 130, "stopped after step 3. Go on with:  python x.py --seed 1 --resume"),
    (Interrupted("stopped after step 3", 143), 143, "stopped after step 3. Go on with:  python x.py --seed 1 --resume"),
    (NotFinite("step 3 is not finite"), 1, "step 3 is not finite"),
    (CheckpointError("every checkpoint is damaged"), 1, "every checkpoint is damaged"),
    (DiskError("the disk is full"), 1, "the disk is full"),
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_ends_of_an_experiment(name, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    experiment = importlib.import_module(name)
    monkeypatch.setattr(experiment.tyro, "cli", lambda config, description: config())
    monkeypatch.setattr(sys, "argv", ["x.py", "--seed", "1"])
    for end, code, line in ENDS:

        def run(config, end=end):
            raise end

        monkeypatch.setattr(experiment, EXPERIMENTS[name], run)
        assert experiment.main() == code
        said = capsys.readouterr().err
        assert said.strip().endswith(line) and len(said.strip().splitlines()) == 1
