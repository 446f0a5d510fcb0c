"""Hub folders on meshes: emulated devices, two processes, and the memory that loading takes."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from medvista_jax.models.names import Entry, Layout, hub_rows, shape_of_leaf, to_leaf
from medvista_jax.models.shard_writer import ShardWriter
from medvista_jax.models.streaming import Leaf, load_leaf, stream
from medvista_jax.models.tensor_files import SINGLE, Tensor, TensorFiles
from tests.checkpoints import TINY, make_folder

ENTRIES = [
    (Entry("same", "same"), (12, 6)),
    (Entry("cube", "cube"), (1, 12, 6)),
    (Entry("vector", "vector"), (24,)),
    (Entry("linear", "linear", Layout.LINEAR), (12, 8)),
    (Entry("patches", "patches", Layout.PATCHES, (8, 3, 2, 2)), (8, 3, 2, 2)),
    (Entry("scalar", "scalar"), ()),
]


class Part:
    """A sharding of which this host has one device, or some: what another process would see of a larger mesh."""

    def __init__(self, *indices):
        self.indices = indices

    def addressable_devices_indices_map(self, shape):
        return dict(enumerate(self.indices))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    tensors = [Tensor(entry.hub, np.dtype(np.float32), shape) for entry, shape in ENTRIES]
    (tmp_path / "config.json").write_text("{}")
    with ShardWriter(tmp_path / SINGLE, tensors) as shard:
        for tensor in tensors:
            shard.append(rng.normal(size=tensor.shape).astype(np.float32))
    return tmp_path


def leaf_of(files, entry, shape, sharding=None, dtype=np.float32):
    return Leaf(entry, files.tensors[entry.hub], shape_of_leaf(entry, shape), np.dtype(dtype), sharding)


@pytest.mark.parametrize(("entry", "shape"), ENTRIES)
def test_whole_leaves(folder, entry, shape):
    stored = load_file(folder / SINGLE)[entry.hub]
    with TensorFiles(folder) as files:
        array = load_leaf(files, leaf_of(files, entry, shape))
        np.testing.assert_array_equal(np.asarray(array), to_leaf(entry, stored))
        assert files.bytes_read == stored.nbytes


@pytest.mark.parametrize(("entry", "shape"), ENTRIES[:-1])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("block_bytes", [64, 2**20])
def test_a_device_reads_its_slice_and_no_more(folder, entry, shape, axis, block_bytes, monkeypatch):
    """One device of four, on either axis of our leaf; bytes are counted where the file is read."""
    monkeypatch.setattr("medvista_jax.models.streaming.BLOCK_BYTES", block_bytes)
    asked = []
    read_into = TensorFiles._read_into
    monkeypatch.setattr(TensorFiles, "_read_into", lambda *a: (asked.append((a[3], len(a[2]))), read_into(*a)))
    taken = []
    take = lambda shape, sharding, callback, dtype: taken.append(callback(index)) or jax.device_put(taken[0])  # noqa: E731
    monkeypatch.setattr(jax, "make_array_from_callback", take)
    ours = shape_of_leaf(entry, shape)
    axis %= len(ours)
    if ours[axis] < 2:
        axis += 1
    quarter = ours[axis] // (4 if ours[axis] % 4 == 0 else 2)
    index = tuple(slice(quarter, 2 * quarter) if i == axis else slice(None) for i in range(len(ours)))
    with TensorFiles(folder) as files:
        load_leaf(files, leaf_of(files, entry, shape, Part(index)))
    wanted = to_leaf(entry, load_file(folder / SINGLE)[entry.hub])[index]
    np.testing.assert_array_equal(taken[0], wanted)
    spans = sorted(asked)
    assert sum(length for _, length in spans) == wanted.nbytes < np.prod(shape) * 4
    assert all(start + length <= after for (start, length), (after, _) in zip(spans, spans[1:], strict=False))


def test_devices_that_need_the_same_read_it_once(folder):
    entry, shape = ENTRIES[3]
    upper, lower = (slice(0, 4), slice(None)), (slice(4, 8), slice(None))
    with TensorFiles(folder) as files:
        assert leaf_of(files, entry, shape, Part(upper, upper, lower, lower)).local_bytes() == 8 * 12 * 4
        assert leaf_of(files, entry, shape, Part(upper, upper)).local_bytes() == 4 * 12 * 4


def test_leaves_come_in_the_order_of_the_disk(folder, monkeypatch):
    read = []
    original = TensorFiles.read
    monkeypatch.setattr(TensorFiles, "read", lambda *a: (read.append(a[1]), original(*a))[1])
    with TensorFiles(folder) as files:
        leaves = [leaf_of(files, entry, shape) for entry, shape in reversed(ENTRIES)]
        placed = stream(files, leaves)
    assert read == [entry.hub for entry, _ in ENTRIES]
    assert set(placed) == {entry.path for entry, _ in ENTRIES}
    assert hub_rows(*ENTRIES[4]) == (8, 12)


def run(program, *arguments, devices=1):
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], env=os.environ | flags, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else None


ON_A_MESH = """
import sys, json
import jax, numpy as np
from medvista_jax import models
from medvista_jax.models.families import FAMILIES
from medvista_jax.models.names import flatten
from medvista_jax.runtime.mesh import make_mesh
from medvista_jax.runtime.sharding import tree_shardings

folder, out = sys.argv[1:]
kind = json.load(open(folder + "/config.json"))["model_type"]
model, plain = models.load(folder)
mesh = make_mesh({"fsdp": 4, "tensor": 2})
seen = []
model_again, params = models.load(folder, mesh=mesh, progress=lambda *pair: seen.append(pair))
assert model_again == model
wanted = flatten(tree_shardings(FAMILIES[kind].params().RULES, plain, mesh))
split = 0
for path, leaf in flatten(params).items():
    assert leaf.sharding == wanted[path], path
    split += not leaf.is_fully_replicated
    for shard in leaf.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(flatten(plain)[path])[shard.index])
assert split > 10, split
total = sum(leaf.nbytes for leaf in jax.tree.leaves(plain))
assert seen[-1] == (total, total), "every byte once, for all eight devices"
models.save(model_again, params, out, shard_bytes=20_000)
assert all(leaf._npy_value is None for leaf in jax.tree.leaves(params)), "no copy stays inside a leaf"
_, again = models.load(out)
jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), again, plain)
"""


@pytest.mark.parametrize("kind", TINY)
def test_on_a_mesh_of_eight(tmp_path, kind):
    run(ON_A_MESH, make_folder(tmp_path / kind, kind), tmp_path / "out", devices=8)


TWO_HOSTS = """
import sys, json, re
import jax, numpy as np
folder, out, port, process = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from medvista_jax import models
from medvista_jax.models.names import flatten
from medvista_jax.models.tensor_files import TensorFiles
from medvista_jax.runtime.mesh import make_mesh

assert jax.device_count() == 4 and jax.local_device_count() == 2
counts = []
close = TensorFiles.close
TensorFiles.close = lambda self: (counts.append(self.bytes_read), close(self))
mesh = make_mesh({"fsdp": 4})
seen = []
model, params = models.load(folder, mesh=mesh, progress=lambda *pair: seen.append(pair))
local = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(params)
    for shard in {str(s.index): s for s in leaf.addressable_shards}.values()
)
assert counts == [local] and seen[-1] == (local, local), (counts, local)
tensors = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
models.save(model, params, out, shard_bytes=20_000)
with open(f"{out}-{process}.json", "w") as file:
    json.dump({"read": counts[0], "all": tensors}, file)
"""


def test_two_hosts_read_a_share_each_and_write_once(tmp_path):
    folder = make_folder(tmp_path / "qwen", "qwen3_vl")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    arguments = [sys.executable, "-c", TWO_HOSTS, str(folder), str(tmp_path / "out"), str(port)]
    hosts = [subprocess.Popen([*arguments, str(i)], env=os.environ | flags, **pipes) for i in range(2)]
    try:
        results = [host.communicate(timeout=120) for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    for host, (_, errors) in zip(hosts, results, strict=True):
        assert host.returncode == 0, errors
    for i in range(2):
        told = json.loads((tmp_path / f"out-{i}.json").read_text())
        # Half of what is split, and all of the few small leaves that are not.
        assert told["all"] / 2 <= told["read"] < 0.6 * told["all"]
    saved = {
        name: value for file in (tmp_path / "out").glob("*.safetensors") for name, value in load_file(file).items()
    }
    for name, value in load_file(folder / SINGLE).items():
        np.testing.assert_array_equal(saved[name], value)


MEMORY = """
import json, re, sys
import jax, jax.numpy as jnp, numpy as np
from medvista_jax.models.names import Entry, Layout
from medvista_jax.models.streaming import Leaf, load_leaf
from medvista_jax.models.tensor_files import TensorFiles

folder, layout, dtype, parts = sys.argv[1:]
sharding, devices = None, jax.devices()
if int(parts) > 1:
    mesh = jax.make_mesh((int(parts),), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
jax.device_put(np.zeros(3)).block_until_ready()
kib = lambda name: int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))
before = kib("VmRSS")
with TensorFiles(folder) as files:
    tensor = files.tensors["w"]
    shape = tensor.shape if layout == "SAME" else tensor.shape[::-1]
    array = load_leaf(files, Leaf(Entry("w", "w", Layout[layout]), tensor, shape, jnp.dtype(dtype), sharding))
print(json.dumps({"peak": (kib("VmHWM") - before) / 1024, "array": array.nbytes / 2**20}))
"""


@pytest.mark.parametrize(
    ("layout", "dtype", "parts"),
    [("SAME", "float32", 1), ("LINEAR", "bfloat16", 1), ("LINEAR", "float32", 4)],
)
def test_one_large_tensor_takes_its_own_size(tmp_path, layout, dtype, parts):
    """512 MiB, a hole in the file: on a CPU the peak is the array and a few blocks, cast and transposed or not."""
    (tmp_path / "config.json").write_text("{}")
    tensor = Tensor("w", np.dtype(np.float32), (2**16, 2**11))
    header = {"w": {"dtype": "F32", "shape": tensor.shape, "data_offsets": [0, tensor.nbytes]}}
    text = json.dumps(header).encode()
    with open(tmp_path / SINGLE, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + tensor.nbytes)
    told = run(MEMORY, tmp_path, layout, dtype, parts, devices=parts)
    assert told["array"] == (512 if dtype == "float32" else 256)
    assert told["array"] - 8 < told["peak"] < told["array"] + 96
