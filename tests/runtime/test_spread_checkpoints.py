"""States that are spread over the devices of a mesh, in one process and in two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medvista_jax.runtime.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]

ON_A_MESH = """
import os, signal, sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from medvista_jax.runtime.stages import Interrupted
from tests import tiny
from tests.runtime.small_training import initial, stage, train

out = Path(sys.argv[1])
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "fsdp"))
place = lambda leaf: NamedSharding(mesh, P("fsdp") if leaf.ndim == 2 and leaf.shape[0] % 2 == 0 else P())
spread = lambda: jax.device_put(initial(), jax.tree.map(place, initial()))
placed = lambda state: [(leaf.sharding, leaf.committed) for leaf in jax.tree.leaves(state)]
whole, _ = train(out / "whole", stage(8), state=spread())
one = stage(8)
batch = one.batch
one.batch = lambda number: (number == 4 and os.kill(os.getpid(), signal.SIGTERM), batch(number))[1]
try:
    train(out / "broken", one, state=spread())
except Interrupted:
    state, said = train(out / "broken", stage(8), state=spread(), resume=True)
    assert "starts, 3 steps" in said
    assert placed(state) == placed(whole) and any(not s.is_fully_replicated for s, _ in placed(state))
    assert tiny.same_bits(state, whole)
    print("the same")
"""

TWO_PROCESSES = """
import sys
from pathlib import Path
import jax
rank, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from medvista_jax.runtime.checkpoints import Checkpoints

mesh = Mesh(np.array(jax.devices()), ("d",))

def tree(seed):
    values = np.random.default_rng(seed).standard_normal((400, 1000)).astype(np.float32)
    put = lambda values, spec: jax.make_array_from_callback(
        values.shape, NamedSharding(mesh, spec), lambda index: values[index])
    return {"w": put(values, P("d")), "b": put(values[0], P())}

def same(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    shards = ((a, b) for x, y in pairs for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True))
    return all(np.array_equal(a.data, b.data) for a, b in shards)

said = []
with Checkpoints(folder, keep=2, say=said.append) as checkpoints:
    for step in (1, 2, 3):
        checkpoints.save(step, tree(step), {"step": step}, {"rank": rank, "longer": "x" * 10 * rank})
    step, restored, metadata = checkpoints.restore(tree(0))
    assert (step, metadata, checkpoints.steps()) == (3, {"step": 3}, [2, 3]) and same(restored, tree(3))
    assert checkpoints.local(3) == {"rank": rank, "longer": "x" * 10 * rank}
multihost_utils.sync_global_devices("written")
if rank == 0:  # one process cannot read its shards, the other could
    files = (path for path in (folder / "3" / "state" / "ocdbt.process_0").rglob("*") if path.is_file())
    max(files, key=lambda path: path.stat().st_size).unlink()
multihost_utils.sync_global_devices("broken")
with Checkpoints(folder, keep=2, say=said.append) as checkpoints:
    step, restored, _ = checkpoints.restore(tree(0))
    assert step == 2 and same(restored, tree(2)) and checkpoints.damaged() == ["3.damaged"]
print(rank, len(said))
"""

ONE_IS_ASKED_TO_STOP = """
import os, signal, sys
from pathlib import Path
import jax
rank, port, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from medvista_jax.runtime.stages import Interrupted
from tests import tiny
from tests.runtime.small_training import initial, stage, train

everywhere = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), P())
fresh = lambda: jax.jit(initial, out_shardings=everywhere)()
whole, _ = train(out / "whole", stage(12), state=fresh(), writes=rank == 0)
one = stage(12)
batch = one.batch
one.batch = lambda number: (rank == number == 1 and os.kill(os.getpid(), signal.SIGTERM), batch(number))[1]
try:
    train(out / "broken", one, state=fresh(), writes=rank == 0)
except Interrupted as stop:
    state, said = train(out / "broken", stage(12), state=fresh(), resume=True, writes=rank == 0)
    print(stop.exit_code, stop.args[0], "the same" if tiny.same_bits(state, whole) else "another end", sep="|")
"""


def start(code: str, devices: int, *arguments: object) -> subprocess.Popen[str]:
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = os.environ | flags | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_sharded_state_goes_on_where_it_lay(tmp_path):
    process = start(ON_A_MESH, 4, tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out.split("\n")[-2] == "the same", err[-3000:]


def two(code: str, folder: Path) -> list[str]:
    """The last line that each of two processes prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [start(code, 2, rank, port, folder) for rank in (0, 1)]
    ends = [process.communicate(timeout=120) for process in processes]
    for process, (_, err) in zip(processes, ends, strict=True):
        assert process.returncode == 0, err[-3000:]
    return [out.split("\n")[-2] for out, _ in ends]


@pytest.mark.slow
def test_two_processes_write_read_and_step_back_together(tmp_path):
    # The damage is told once.
    assert two(TWO_PROCESSES, tmp_path / "run") == ["0 1", "1 0"]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(tmp_path):
    first, second = two(ONE_IS_ASKED_TO_STOP, tmp_path)
    # Asked in step 2, known to all one step later.
    assert first == second == "143|stopped in stage small after step 3 of 12|the same"
    lines = read_metrics(tmp_path / "broken" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["loss"] for line in lines] == [line["loss"] for line in read_metrics(tmp_path / "whole/metrics.jsonl")]
