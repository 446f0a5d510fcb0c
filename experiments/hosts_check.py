"""The first run on a new slice: all hosts train a matrix together, write one checkpoint, and are told who is missing.

    python experiments/hosts_check.py --out gs://BUCKET/check            # the same command on every host
    python experiments/hosts_check.py --out gs://BUCKET/check --resume   # go on after a host was lost, or a signal

OUT must be a folder that all hosts see. Kill one process and the others stop with exit status 76; send one of them
SIGTERM and all save the same step and stop with 143. experiments/README.md has the commands for Cloud TPU.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import NamedSharding, PartitionSpec

from medvista_jax.runtime.checkpoints import CheckpointError, Checkpoints
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.disk import DiskError
from medvista_jax.runtime.hosts import host_batch, is_first, run_on_hosts, spread
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.mesh import MeshError, describe, make_mesh, parse_mesh
from medvista_jax.runtime.vote import StopVote


@dataclasses.dataclass(frozen=True)
class HostsCheck:
    """`rows`: of the batch, a device. `pause`: seconds a step, to have the time to kill something.

    `learning_rate`: diverges above 2.
    """

    out: str = "runs/hosts_check"
    mesh: str = "fsdp=-1"
    width: int = 256
    rows: int = 8
    steps: int = 200
    save_every: int = 20
    learning_rate: float = 1.0
    pause: float = 0.0
    resume: bool = False


def load(step: int, rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """Inputs of some rows, and what the matrix to be learned (the cyclic shift) makes of them."""
    x_BD = np.stack([np.random.default_rng((step, row)).normal(size=width) for row in rows]).astype(np.float32)
    return {"x": x_BD, "y": np.roll(x_BD, 1, axis=1)}


def run(config: HostsCheck) -> None:
    enable_compile_cache()
    mesh = make_mesh(parse_mesh(config.mesh))
    say = print if is_first() else lambda *_, **__: None
    say(
        f"{jax.process_count()} processes, {mesh.size} devices ({jax.devices()[0].device_kind}): {describe(mesh.shape)}"
    )
    split, whole = NamedSharding(mesh, PartitionSpec("fsdp")), NamedSharding(mesh, PartitionSpec())

    def loss_of(w_DD: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        return jnp.mean((batch["x"] @ w_DD - batch["y"]) ** 2)

    # (1 + √(D/B))² bounds the eigenvalues of XᵀX / B (Marchenko and Pastur).
    total = config.rows * mesh.size
    rate = config.learning_rate * config.width / 2 / (1 + (config.width / total) ** 0.5) ** 2

    def update(w_DD: jax.Array, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        loss, gradient_DD = jax.value_and_grad(loss_of)(w_DD, batch)
        return w_DD - rate * gradient_DD, loss

    step = jax.jit(update, out_shardings=(split, whole), donate_argnums=0)
    w_DD, done, votes = spread(np.zeros((config.width, config.width), np.float32), split), 0, StopVote()
    with Checkpoints(f"{config.out}/checkpoints") as checkpoints, Interrupts() as interrupts:
        if config.resume and checkpoints.latest() is not None:
            done, w_DD, _ = checkpoints.restore(w_DD)
            say(f"going on after step {done}")
        for number in range(done, config.steps):
            batch = host_batch(lambda n, rows: load(n, rows, config.width), number, total, mesh)
            w_DD, loss = step(w_DD, batch)
            stop, at = votes.cast(interrupts.exit_code), number + 1
            if stop or at % config.save_every == 0 or at == config.steps:
                say(f"step {at}: loss {float(loss):.6f}, saved")
                checkpoints.save(at, w_DD)
            if stop:
                checkpoints.wait()
                raise Interrupted(f"stopped after step {at}", stop)
            time.sleep(config.pause)


def main() -> int:
    config = tyro.cli(HostsCheck, description=__doc__)
    try:
        run(config)
    except Interrupted as stop:
        if is_first():
            print(f"{stop.args[0]}; go on with --resume", file=sys.stderr)
        return stop.exit_code
    except (MeshError, CheckpointError, DiskError) as error:
        print(f"hosts_check: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_on_hosts(main)
