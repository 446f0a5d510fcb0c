"""Several processes stop after the same step although each hears of a signal, or not, at a moment of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class StopVote:
    """Called once a step by every process; the answer is the same in all of them.

    A process alone gets its own word back at once. Of several, the answer is that of the step before: it travels while
    the step computes, as the metrics do, so that the host does not wait for the devices.
    """

    def __init__(self) -> None:
        self._before: jax.Array | None = None
        if jax.process_count() > 1:
            self._sharding = NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec("all"))
            self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(self._sharding.mesh, PartitionSpec()))

    def cast(self, mine: int) -> int:
        """The largest number that any process gave: 0 to go on, else the exit status to stop with."""
        if jax.process_count() == 1:
            return mine
        before = self._before
        every = (jax.device_count(),)
        votes = jax.make_array_from_callback(every, self._sharding, lambda index: np.full(1, mine, np.int32))
        self._before = self._largest(votes)
        return 0 if before is None else int(before)
