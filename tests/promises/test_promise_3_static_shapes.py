"""Promise 3: after warm-up nothing compiles again, whatever budgets, temperature, questions, keys and scripts."""

from __future__ import annotations

import contextlib
import logging

import jax
import jax.numpy as jnp
import pytest

from medvista_jax.learning.grpo import grpo_step
from medvista_jax.learning.sft import sft_step
from medvista_jax.rollout.sampling import Sampling
from tests import tiny


@contextlib.contextmanager
def compilations(caplog):
    """Names of what XLA compiled meanwhile, from JAX's own compile log."""
    names: list[str] = []
    with caplog.at_level(logging.WARNING), jax.log_compiles(True):
        caplog.clear()
        yield names
        names.extend(r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling"))


def variations():
    """Everything that a training run may change from step to step, of one shape."""
    base = tiny.make_question()
    yield base
    yield tiny.make_question(seed=5, texts=("A or B", "Is it there?", "What?"))
    yield tiny.make_question(max_turns=1)
    yield tiny.make_question(max_turns=(1, 2, 3), max_calls=(0, 1, 2))
    yield base.replace(bank=base.bank.replace(window_PO2=base.bank.window_PO2 + 5.0))


def test_the_log_is_not_deaf(caplog):
    with compilations(caplog) as names:
        jax.jit(lambda x: x * 3 + 1)(jnp.ones(7))
    assert names


def test_rollout(caplog):
    tiny.played()
    questions = list(variations())
    keys = [jax.random.key(seed) for seed in range(len(questions))]
    scripts = [tiny.make_script([()] * 6), tiny.make_script(tiny.MIXED)]
    temperatures = [Sampling.at(t) for t in (0.0, 0.5, 1.0)]
    before = tiny.play._cache_size()
    with compilations(caplog) as names:
        for step, (question, key) in enumerate(zip(questions, keys, strict=True)):
            sampling, script = temperatures[step % 3], scripts[step % 2]
            tiny.play(tiny.MODEL, tiny.params(), tiny.environment(), question, key, 2, sampling, script)
    assert names == []
    assert tiny.play._cache_size() == before


def test_sft_step(caplog):
    state, script = tiny.make_state(("^decoder", "^connector")), tiny.make_script(tiny.LESSONS)
    state, _ = tiny.learn(state, tiny.make_question(), script)
    questions = list(variations())
    other = tiny.make_script([("<answer>A</answer>",), (tiny.ZOOM, "<answer>B</answer>"), ()])
    before = sft_step._cache_size()
    with compilations(caplog) as names:
        for step, question in enumerate(questions):
            state, _ = tiny.learn(state, question, other if step % 2 else script)
    assert names == [] and sft_step._cache_size() == before


def test_grpo_step(caplog):
    state = tiny.make_state()
    keys = [tiny.make_key(), tiny.make_key(("B", "no", "12"))]
    temperatures = [Sampling.at(t) for t in (1.0, 0.8)]
    state, _ = tiny.update(state, tiny.make_question(), keys[0])
    questions = list(variations())
    before = grpo_step._cache_size()
    with compilations(caplog) as names:
        for step, question in enumerate(questions):
            state, _ = grpo_step(
                tiny.MODEL,
                tiny.optimizer(),
                tiny.GRPO,
                tiny.environment(),
                state,
                question,
                keys[step % 2],
                temperatures[step % 2],
            )
    assert names == [] and grpo_step._cache_size() == before


@pytest.mark.parametrize("field", ["max_turns_P", "max_calls_P"])
def test_budgets_are_arrays(field):
    assert isinstance(getattr(tiny.make_question(), field), jax.Array)
