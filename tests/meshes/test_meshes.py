"""Every family on eight emulated devices: tokens, losses and updated parameters are those of one device."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import pytest

from medvista_jax.models.families import sharding_rules
from medvista_jax.runtime.aot.plans import MODELS, PLANS
from medvista_jax.runtime.mesh import AXES, abstract_mesh
from medvista_jax.runtime.sharding import accidents, tree_placements
from tests.meshes.families import FAMILIES

SHAPES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]


def on_eight_devices(*command: str) -> list[dict]:
    """What ``python -m …`` prints, a line each."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = (sys.executable, "-m", *command)
    run = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_devices_agree_with_one(family):
    alone, *found = on_eight_devices("tests.meshes.worker", family)
    assert alone["moved"] > 1e-3 and alone["views"] > 8  # something was learnt, and somebody zoomed
    assert [tuple(one["shape"]) for one in found] == SHAPES
    for one in found:
        assert one["tokens"] == 0, one
        # Sums over parts round in another order: float32, logits of unit size.
        assert one["logprobs"] < 1e-5 and one["loss"] < 1e-5, one
        assert one["grad_norm"] < 1e-5 and one["params"] < 1e-5, one


@functools.cache
def published(name: str):
    """A model of :data:`MODELS` and the shapes of its parameters."""
    model = MODELS[name]()
    return model, model.abstract_params()


@pytest.mark.parametrize("shape", [*SHAPES, *sorted({plan.mesh for plan in PLANS.values()})])
@pytest.mark.parametrize("name", MODELS)
def test_no_large_parameter_lies_whole_by_accident(name, shape):
    (model, params), mesh = published(name), abstract_mesh(dict(zip(AXES, shape, strict=True)))
    placements = tree_placements(sharding_rules(model), params, mesh)
    assert accidents(placements, mesh) == []


def test_a_vocabulary_that_does_not_divide():
    """The head lies cut by width then: few rows add up slices of logits, many cut the head; nobody gathers it."""
    cases = on_eight_devices("tests.meshes.vocabulary")
    assert len(cases) == 8
    for one in cases:
        # float32: sums of 32 products of unit size in another order, gradients of 512 rows. bfloat16: a sum that lies
        # between two numbers may be rounded to the other one, 2^-8 of logits up to 2.
        logits, head = (2e-6, 5e-5) if one["dtype"] == "float32" else (2**-7, 2**-8)
        assert one["logits"] <= logits and one["head"] <= head, one
        assert not one["gathered"] and (one["travels"] == ["all-reduce"] or one["rows"] > 8), one
