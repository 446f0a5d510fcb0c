"""How the tests' programs are compiled."""

from __future__ import annotations

import jax

# Compiling takes most of the time of the tests. tests/endtoend runs the optimised programs.
jax.config.update("jax_disable_most_optimizations", True)
