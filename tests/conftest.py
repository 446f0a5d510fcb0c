"""Which tests share a process, and how their programs are compiled."""

from __future__ import annotations

import jax
import pytest

# Compiling takes most of the time of the tests. tests/endtoend runs the optimised programs.
jax.config.update("jax_disable_most_optimizations", True)

SHARED = ("learning", "promises", "rollout")
"""Folders whose tests call the same compiled rollout and training steps."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for ``--dist loadgroup``: those folders together, every other file for itself."""
    for item in items:
        group = "rollout" if item.path.parent.name in SHARED else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
