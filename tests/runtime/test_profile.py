"""A trace that the profiler's reader opens, and the time in it by named scopes."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest

from medvista_jax.runtime.profile import Profile, scope_of, scopes_of_text, seconds_by_scope


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("jit(step)/decode/while/body/tool/sin", "tool"),
        ("jit(step)/update/transpose(jvp())/dot_general", "update"),
        ("jit(decoder)/add", "other"),
        ("", "other"),
    ],
)
def test_the_innermost_scope_counts(path, scope):
    assert scope_of(path) == scope


def test_operations_of_a_programs_text():
    text = """
  %dot.1 = f32[4]{0} dot(%a, %b), metadata={op_name="jit(f)/prefill/dot_general" source_line=3}
  ROOT fusion.2 = f32[4]{0} fusion(dot.1), calls=%c, metadata={op_type="x" op_name="jit(f)/reward/add"}
  %copy.3 = f32[4]{0} copy(%dot.1)
"""
    assert scopes_of_text(text) == {"dot.1": "prefill", "fusion.2": "reward"}


def test_seconds_are_summed_by_scope_of_the_right_program():
    events = [("f", "dot.1", 1.0), ("f", "dot.1", 0.5), ("g", "dot.1", 4.0), ("f", "copy.3", 2.0)]
    scopes = {"f": {"dot.1": "decode"}, "g": {"dot.1": "encode"}}
    assert list(seconds_by_scope(events, scopes).items()) == [("encode", 4.0), ("decode", 1.5), ("other", 2.0)]


def test_a_real_trace(tmp_path):
    """A product of 600² takes most of the time beside one of 60²."""

    @jax.jit
    def step(large, small):
        with jax.named_scope("decode"):
            large = jax.lax.fori_loop(0, 10, lambda _, x: jnp.sin(x @ x), large)
        with jax.named_scope("reward"):
            return large, jnp.cos(small @ small)

    operands = (jnp.ones((600, 600)), jnp.ones((60, 60)))
    jax.block_until_ready(step(*operands))
    profile = Profile(tmp_path / "profile")
    profile.begin()
    spent = profile.end([step(*operands) for _ in range(2)], 2)
    assert spent["decode"] > 10 * spent["reward"] > 0
    assert json.loads((tmp_path / "profile/scopes.json").read_text()) == spent
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1
