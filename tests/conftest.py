"""How the tests' programs are compiled, and when they are dropped."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

# Compiling takes most of the time of the tests. tests/endtoend runs the optimised programs.
jax.config.update("jax_disable_most_optimizations", True)

_MAPS = Path("/proc/self/maps")
_MOST_MAPS = 25_000
"""Of memory, Linux allows a process 65,530: a compiled program takes some, and beyond them XLA ends by a signal."""


@pytest.fixture(scope="module", autouse=True)
def few_programs() -> Iterator[None]:
    """Compiled programs of finished files are dropped before they are too many."""
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()
