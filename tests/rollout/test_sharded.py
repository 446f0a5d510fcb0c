"""Prompts spread over devices: the same trajectories, and no device asks another anything while it plays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.sharded import rollout_sharded
from tests import tiny

SCRIPT = """
from functools import partial
import jax, numpy as np
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.sharded import rollout_sharded
from medvista_jax.runtime.mesh import make_mesh
from tests import tiny

mesh = make_mesh({"data": 3, "tensor": 2}, jax.devices()[:6])
question = tiny.make_question(max_turns=(3, 1, 2))
arguments = (tiny.MODEL, tiny.params(), tiny.environment(), question, jax.random.key(4), 2, Sampling.at(1.0))
play = jax.jit(partial(rollout_sharded, mesh), static_argnames=("model", "group"))
spread = play(*arguments)
assert len(spread.tokens_BS.sharding.device_set) == 6, spread.tokens_BS.sharding
whole = jax.jit(rollout, static_argnames=("model", "group"))(*arguments)
length = whole.tokens_BS.shape[1]
for one, other in ((spread.tokens_BS, whole.tokens_BS), (spread.positions_BSZ, whole.positions_BSZ)):
    for row in range(6):  # a device's rows lie closer where its own turns were shorter
        a, b = (np.asarray(x[row])[np.asarray(t.valid_BS[row])] for x, t in ((one, spread), (other, whole)))
        np.testing.assert_array_equal(a, b)
        a, b = (np.asarray(t.logprobs_BS[row])[np.asarray(t.valid_BS[row])] for t in (spread, whole))
        np.testing.assert_allclose(a, b, atol=1e-5)
print(play.lower(*arguments).compile().as_text())
"""


@pytest.fixture(scope="module")
def compiled():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=6", "JAX_PLATFORMS": "cpu"}
    environment = os.environ | flags | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def members(line: str) -> list[list[int]]:
    """Devices that a collective brings together."""
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        return [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d,]+)", pairs[1] + "}")]
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[6\](?!T)", line):
        return np.arange(6).reshape(int(iota[1]), int(iota[2])).tolist()
    groups = re.search(r"replica_groups=\{(\{.*?\})\}", line)
    assert groups, f"a collective of all devices, or of groups that this test cannot read: {line[:300]}"
    return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", groups[1])]


def test_same_trajectories_and_no_word_between_prompts(compiled):
    """Devices 2n and 2n + 1 share the products of the same prompts along ``tensor``; nobody else hears of them."""
    assert "while(" in compiled
    lines = re.findall(r".*= .* (?:all-reduce|all-gather|collective-permute|all-to-all)(?:-start)?\(.*", compiled)
    assert lines
    for line in lines:
        assert all(len({device // 2 for device in group}) == 1 for group in members(line)), line[:500]


def test_prompts_that_cannot_be_split():
    mesh = AbstractMesh((2,), ("data",))
    arguments = (tiny.MODEL, tiny.params(), tiny.environment(), tiny.make_question(), jax.random.key(0), 2)
    with pytest.raises(
        ValueError, match="3 prompts cannot be split over 2 devices of axis 'data'; give a multiple of 2"
    ):
        rollout_sharded(mesh, *arguments, Sampling.at(1.0))
