"""Promise 8: what crosses ``jit`` is a pytree; no module-level state changes; the same bytes in a fresh process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from medvista_jax.environment.build import build_environment
from medvista_jax.learning.state import OptimizerConfig
from medvista_jax.models.medvista_tiny import MedVistaTiny
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny


def digest() -> str:
    """Of a rollout with tools, errors, answers and sampled turns."""
    leaves = jax.tree.leaves(tiny.played(tiny.make_script(tiny.MIXED)))
    return hashlib.sha256(b"".join(tiny.raw(leaf) for leaf in leaves)).hexdigest()


@functools.cache
def structures():
    question = tiny.make_question()
    return {
        "Environment": tiny.environment(),
        "EnvState": tiny.reset(tiny.environment(), question, 2),
        "Question": question,
        "AnswerKey": tiny.make_key(),
        "Trajectory": tiny.played(),
        "TrainState": tiny.make_state(),
        "KVCache": tiny.MODEL.init_cache(2, 5),
        "Script": tiny.make_script([()]),
    }


@pytest.mark.parametrize(
    "name", ["Environment", "EnvState", "Trajectory", "TrainState", "KVCache", "Question", "Script"]
)
def test_structures_are_pytrees_of_arrays(name):
    value = structures()[name]
    leaves, tree = jax.tree.flatten(value)
    assert leaves and all(isinstance(leaf, jax.Array) for leaf in leaves)
    again = jax.tree.unflatten(tree, leaves)
    assert type(again) is type(value) and jax.tree.structure(again) == tree
    assert all(a is b for a, b in zip(jax.tree.leaves(again), leaves, strict=True))
    passed = jax.jit(lambda x: x)(value)
    assert tiny.same_bits(passed, value) and jax.tree.structure(passed) == tree


@pytest.mark.parametrize("name", ["Environment", "EnvState", "TrainState", "KVCache", "Question"])
def test_structures_are_frozen(name):
    value = structures()[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)


def test_parameters_are_nested_dicts_of_arrays():
    state = tiny.make_state()
    for params in (tiny.params(), state.params()):
        stack = [params]
        while stack:
            node = stack.pop()
            assert type(node) is dict or isinstance(node, jax.Array), type(node)
            stack.extend(node.values() if type(node) is dict else ())
    assert jax.tree.structure(state.params()) == jax.tree.structure(tiny.params())
    assert tiny.same_bits(state.params(), tiny.params())


def test_static_values_are_hashable_and_equal_by_value():
    models = [MedVistaTiny(dataclasses.replace(tiny.MODEL.config)) for _ in range(2)]
    assert models[0] == models[1] and hash(models[0]) == hash(models[1]) and models[0] is not models[1]
    assert models[0] != MedVistaTiny(dataclasses.replace(tiny.MODEL.config, image=32))
    for config in (tiny.GRPO, tiny.SFT, OptimizerConfig()):
        copy = dataclasses.replace(config)
        assert copy == config and hash(copy) == hash(config) and copy is not config
    tools = tuple(DEFAULT_TOOLS.values())
    built = [build_environment(tiny.TOKENIZER, tools, 4, (16, 16), tiny.TURNS, tiny.TURN_TOKENS) for _ in range(2)]
    one, two = (jax.tree.structure(environment) for environment in built)
    assert one == two and hash(one) == hash(two) and tiny.same_bits(*built)


def module_state() -> dict[str, str]:
    """Every mutable value that hangs on a module or a class of the package."""
    found = {}
    for name, module in sorted(sys.modules.items()):
        if not name.startswith("medvista_jax"):
            continue
        owners = [(name, module)] + [
            (f"{name}.{key}", value)
            for key, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == name
        ]
        for owner, thing in owners:
            for key, value in vars(thing).items():
                if not key.startswith("__") and isinstance(value, (dict, list, set, bytearray, np.ndarray, jax.Array)):
                    found[f"{owner}.{key}"] = repr(value)
    return found


def test_a_run_changes_no_module_state():
    before = module_state()
    assert any(key.endswith("DEFAULT_TOOLS") for key in before)
    tiny.played(tiny.make_script(tiny.MIXED), seed=3)
    tiny.update(tiny.make_state(), tiny.make_question(), tiny.make_key())
    assert module_state() == before


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bytes():
    first = digest()
    assert digest() == first  # a run leaves nothing behind
    code = "import tests.conftest; from tests.promises.test_promise_8_pure_at_the_border import digest; print(digest())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == first
