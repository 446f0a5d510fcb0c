"""Saved trajectories and their replay, bit for bit: ``python -m medvista_jax replay RUN --trajectory K``.

A saved batch names everything that decided it: the questions' ids, the policy file, key, temperature, tools. Replay
rebuilds the batch, plays it again with the same program, and compares every array of the trajectory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from medvista_jax.core.types import Question, Trajectory
from medvista_jax.data.questions import QuestionPool
from medvista_jax.evaluation.conditions import CONDITIONS, Condition, batch_maker
from medvista_jax.evaluation.evaluate import play
from medvista_jax.evaluation.setting import Setting, load_policy
from medvista_jax.learning.rewards import RewardTerms
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache


def play_and_save(
    folder: Path, setting: Setting, pool: QuestionPool, condition: Condition, seed: int, temperature: float
) -> tuple[Question, Trajectory, RewardTerms]:
    """Play a whole pool under a condition and save it as ``folder/trajectories/NAME.{json,npz}``."""
    about = {
        "setting": dataclasses.asdict(setting),
        "condition": condition.name,
        "policy": condition.policy,
        "tools": condition.tools,
        "seed": seed,
        "temperature": temperature,
        "items": [item.id for item in pool.items],
        "jax": jax.__version__,
        "platform": jax.devices()[0].platform,
    }
    question, trajectory, terms = _play(folder, setting, pool, condition, seed, temperature)
    path = folder / "trajectories" / name_of(condition)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path.with_suffix(".npz"), **_leaves(trajectory))
    path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return question, trajectory, terms


def name_of(condition: Condition) -> str:
    """``sft_grpo`` or, without tools, ``sft_grpo_no_tools``."""
    return condition.name if condition.tools else f"{condition.name}_no_tools"


def _play(folder: Path, setting: Setting, pool: QuestionPool, condition: Condition, seed: int, temperature: float):
    params = load_policy(folder / "policy" / f"{condition.policy}.safetensors")
    question, key, script = batch_maker(setting, pool, condition, seed)(np.arange(len(pool)))
    trajectory, terms = play(
        setting.model,
        "vista_r1",
        params,
        setting.environment,
        question,
        key,
        script,
        jax.random.key(seed),
        Sampling.at(temperature),
    )
    return question, trajectory, terms


def _leaves(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """``path → array`` of every array of a trajectory."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(trajectory)
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def differences(folder: Path, name: str, row: int | None = None) -> tuple[list[str], dict]:
    """Play a saved batch again and name the arrays that differ, in one row or in all.

    Raises:
      FileNotFoundError: no such batch in the run.
      IndexError: the batch has fewer rows.
    """
    path = folder / "trajectories" / f"{name}.json"
    if not path.exists():
        known = sorted(p.stem for p in (folder / "trajectories").glob("*.json"))
        where = f"; there are {', '.join(known)}" if known else "; is this the folder of a seed, such as runs/x/seed_0?"
        raise FileNotFoundError(f"no saved trajectories {path}{where}")
    about = json.loads(path.read_text(encoding="utf-8"))
    rows = len(about["items"])
    if row is not None and not 0 <= row < rows:
        raise IndexError(f"trajectory {row} is outside 0 … {rows - 1} of {path}")
    setting = Setting(**about["setting"])
    condition = next(c for c in CONDITIONS if name_of(c) == name)
    pool = setting.pool_by_id(about["items"])
    _, trajectory, _ = _play(folder, setting, pool, condition, about["seed"], about["temperature"])
    again = _leaves(trajectory)
    differing = []
    with np.load(path.with_suffix(".npz")) as saved:
        for leaf in saved.files:
            was, now = (saved[leaf], again[leaf]) if row is None else (saved[leaf][row], again[leaf][row])
            if was.tobytes() != now.tobytes():
                differing.append(leaf)
    return differing, about


def main(arguments: Sequence[str]) -> int:
    """Command line. Exit status 0 when every bit agrees, 1 when not, 2 for a run that is not there."""
    parser = argparse.ArgumentParser(prog="python -m medvista_jax replay", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a seed, such as runs/quickstart/seed_0")
    parser.add_argument("--trajectory", type=int, default=None, help="row to compare; all rows by default")
    parser.add_argument("--condition", default="sft_grpo", help="which saved batch")
    options = parser.parse_args(arguments)
    enable_compile_cache()
    try:
        differing, about = differences(options.run, options.condition, options.trajectory)
    except (FileNotFoundError, IndexError) as error:
        print(f"replay: {error}")
        return 2
    which = "all trajectories" if options.trajectory is None else f"trajectory {options.trajectory}"
    if options.trajectory is not None:
        which += f" ({about['items'][options.trajectory]})"
    if differing:
        print(f"{which}: differs in {', '.join(differing)}")
        if (about["jax"], about["platform"]) != (jax.__version__, jax.devices()[0].platform):
            print(f"It was played with jax {about['jax']} on {about['platform']}; bits are promised on the same only.")
        return 1
    print(f"{which}: the same to the bit")
    return 0
