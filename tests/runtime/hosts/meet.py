"""One process of a run without a model. ``python -m tests.runtime.hosts.meet WHAT``; see the functions below."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medvista_jax.runtime.hosts import Hosts, HostsError, host_batch, is_first, local_rows, spread, start_hosts
from medvista_jax.runtime.mesh import make_mesh
from medvista_jax.runtime.vote import StopVote
from tests.runtime.hosts.launch import die_with_parent

SILENCE = 2.0
STEPS_A_SECOND = 20


def say(**what: object) -> None:
    print("RESULT", json.dumps(what), flush=True)


def steps():
    """Numbers of steps, each a collective of all processes."""
    mesh = make_mesh()
    sharding = NamedSharding(mesh, PartitionSpec("fsdp"))
    x = jax.make_array_from_callback((mesh.size,), sharding, lambda index: np.ones(1, np.float32))
    mean = jax.jit(lambda x: jnp.full_like(x, jnp.mean(x)), out_shardings=sharding)
    for number in range(60 * STEPS_A_SECOND):
        x = mean(x).block_until_ready()
        if number == 1:
            print("going", flush=True)
        yield number
        time.sleep(1 / STEPS_A_SECOND)


def loop(hosts: Hosts) -> None:
    """Goes on until a process is stopped from outside."""
    for _ in steps():
        pass


def swallow(hosts: Hosts) -> None:
    """As ``loop``, in a program that reports its errors by itself."""
    try:
        loop(hosts)
    except (ValueError, RuntimeError) as error:
        print(error)
        sys.exit(1)


def fail(hosts: Hosts) -> None:
    """The last process has an error of its own; the others are in a collective."""
    for number in steps():
        if number == 5 and hosts.process == hosts.processes - 1:
            raise FileNotFoundError("no atlas in /data/atlas")


def fail_first(hosts: Hosts) -> None:
    """As ``fail``, in the process that the others coordinate with."""
    for number in steps():
        if number == 5 and is_first():
            raise FileNotFoundError("no atlas in /data/atlas")


def abort(hosts: Hosts) -> None:
    """C++ code of the first gives up, as for a connection that breaks; nobody else is to blame."""
    for number in steps():
        if number == 5 and is_first():
            os.abort()


def abort_early(hosts: Hosts) -> None:
    """As ``abort``, but for the last one, which dies a little later."""
    for number in steps():
        if number == 5 and is_first():
            os.abort()
        if number == 5 and hosts.process == hosts.processes - 1:
            time.sleep(2 * SILENCE / 8)
            os.kill(os.getpid(), signal.SIGKILL)


def leave(hosts: Hosts) -> None:
    """All leave with the same status, one later than the other: a signal does not come everywhere at once."""
    for number in steps():
        if number == 3:
            time.sleep(0.7 * hosts.process)
            sys.exit(130)


def lag(hosts: Hosts) -> None:
    """Nobody is lost who only takes his time: the first writes a report after the others are done."""
    for number in steps():
        if number == 3:
            break
    if is_first():
        time.sleep(2 * SILENCE)
    say(done=True)


def meet(hosts: Hosts) -> None:
    """Who is there."""
    say(process=hosts.process, processes=hosts.processes, devices=jax.device_count(), first=is_first())


def data(hosts: Hosts) -> None:
    """Rows, batches, replicated values, votes and barriers of 2 processes with 2 devices each."""
    devices = np.array(jax.devices())
    plain, interleaved = make_mesh({"data": 2, "fsdp": 2}), make_mesh({"fsdp": 4}, list(devices[[0, 2, 1, 3]]))
    tensor = make_mesh({"data": 2, "tensor": 2}, list(devices[[0, 2, 1, 3]]))  # both processes hold all rows
    asked = {}

    def load(step, rows):
        asked[step] = rows.tolist()
        keys = jax.vmap(lambda row: jax.random.key(100 * step + row))(rows)
        x = 1000.0 * step + rows[:, None] + np.array([0.0, 0.5])
        return {"x": x.astype(np.float32), "key": keys, "temperature": np.float32(0.7), "run": jax.random.key(step)}

    @jax.jit
    def look(batch):
        draws = jax.vmap(lambda key: jax.random.uniform(key, ()))(batch["key"])
        once = jax.random.uniform(batch["run"], ())
        return {"x": batch["x"], "draws": draws, "once": once, "temperature": batch["temperature"]}

    result = {}
    for name, step, mesh in (("plain", 1, plain), ("interleaved", 2, interleaved), ("tensor", 3, tensor)):
        batch = host_batch(load, step, 8, mesh)
        assert batch["x"].sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), 2)
        whole = jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, PartitionSpec()))(look(batch))
        result[name] = {key: np.asarray(value).tolist() for key, value in whole.items()}
        result[name]["rows"] = local_rows(8, mesh).tolist()
    assert asked == {1: result["plain"]["rows"], 2: result["interleaved"]["rows"], 3: result["tensor"]["rows"]}

    sharding = NamedSharding(plain, PartitionSpec("fsdp"))
    table = spread({"table": np.arange(8.0, dtype=np.float32)}, sharding)["table"]
    result["shards"] = sorted(shard.data.tolist() for shard in table.addressable_shards)
    result["sum"] = float(jax.jit(jnp.sum)(table))  # a scalar of a jitted function is readable everywhere

    votes = StopVote()
    result["votes"] = [votes.cast(143 if number == hosts.process == 1 else 0) for number in range(4)]

    hosts.barrier("both", 30)
    if hosts.process == 1:
        time.sleep(2)
    try:
        hosts.barrier("late", 1 if is_first() else 0.2)
    except HostsError as error:
        result["late"] = str(error)
    say(**result)


if __name__ == "__main__":
    die_with_parent()
    try:
        with start_hosts(start_seconds=float(sys.argv[2]), silence_seconds=SILENCE) as group:
            globals()[sys.argv[1]](group)
    except HostsError as error:
        sys.exit(f"meet: {error}")
