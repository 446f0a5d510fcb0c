"""Peak memory and speed of loading a synthetic Qwen3-VL checkpoint of several GB.

    python experiments/bench_load.py                        # 4 GiB on disk, every variant; minutes on two cores
    python experiments/bench_load.py --gib 8 --variants shards mesh
    python experiments/bench_load.py --cold --json load.json

Each variant writes its checkpoint into a temporary folder (TMPDIR says where), loads it in a process of its own and
removes it. Printed are the bytes of the parameters on this host, the peak of the process's resident memory above what
it held before loading, what that is more than the parameters, and the time. On a CPU device memory is host memory, so
the peak includes the parameters themselves. Exits with 1 when a variant takes more than the parameters + 2 GiB. Linux.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import ml_dtypes
import numpy as np
import tyro

from medvista_jax.models.examine import leaf_shapes
from medvista_jax.models.families import FAMILIES, read_config
from medvista_jax.models.names import shape_on_disk
from medvista_jax.models.shard_writer import ShardWriter, plan_shards, write_index
from medvista_jax.models.tensor_files import Tensor

GIB = 2**30
ALLOWED = 2 * GIB
"""Host memory beyond the parameters that loading may take."""

VariantName = Literal["shards", "single", "widen", "narrow", "mesh"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a checkpoint lies on disk, and how it is loaded."""

    stored: str
    shard_bytes: int
    loaded: str | None = None
    mesh: str = ""


VARIANTS: dict[str, Variant] = {
    "shards": Variant("bfloat16", GIB),
    "single": Variant("float32", 10**15),
    "widen": Variant("bfloat16", GIB, loaded="float32"),
    "narrow": Variant("float32", GIB, loaded="bfloat16"),
    "mesh": Variant("float32", GIB, mesh="fsdp=4,tensor=2"),
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """Sizes. The defaults of width and vocabulary are the 8B model's: its embedding alone is 2.3 GiB in float32."""

    gib: float = 4.0
    width: int = 4096
    vocab: int = 151_936
    variants: tuple[VariantName, ...] = ("shards", "single", "widen", "narrow", "mesh")
    cold: bool = False
    """Drop the checkpoint from the page cache before it is loaded: the disk's speed instead of memory's."""
    json: Path | None = None


def hub_config(width: int, vocab: int, layers: int) -> dict:
    """``config.json`` of a Qwen3-VL with the 8B model's proportions and a small tower."""
    head = 128 if width >= 1024 else 16
    section = [24, 20, 20] if head == 128 else [4, 2, 2]
    return {
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // head,
            "num_key_value_heads": max(1, width // head // 4),
            "head_dim": head,
            "vocab_size": vocab,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": section},
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": width,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
    }


def tensors_of(folder: Path, dtype: np.dtype) -> list[Tensor]:
    """What the checkpoint of ``config.json`` holds."""
    family = FAMILIES["qwen3_vl"]
    config = read_config(family, folder)
    shapes = leaf_shapes(family.model_class()(config))
    return [Tensor(entry.hub, dtype, shape_on_disk(entry, shapes[entry.path])) for entry in family.entries(config)]


def write_checkpoint(folder: Path, bench: Bench, variant: Variant) -> int:
    """Writes ``bench.gib`` or a little more; returns the bytes of its tensors."""
    dtype = np.dtype(ml_dtypes.bfloat16 if variant.stored == "bfloat16" else np.float32)
    nbytes, layers = [0, 0], 0
    while nbytes[-1] < bench.gib * GIB:
        # The first two sizes show what a layer costs.
        layers = (
            layers + 1
            if layers < 2
            else layers + max(1, int((bench.gib * GIB - nbytes[-1]) // (nbytes[-1] - nbytes[-2])))
        )
        (folder / "config.json").write_text(json.dumps(hub_config(bench.width, bench.vocab, layers)))
        tensors = tensors_of(folder, dtype)
        nbytes.append(sum(tensor.nbytes for tensor in tensors))
    free = shutil.disk_usage(folder).free
    if free < 1.1 * nbytes[-1]:
        raise SystemExit(
            f"{folder}: {nbytes[-1] / GIB:.1f} GiB are needed, {free / GIB:.1f} are free; set TMPDIR or --gib"
        )
    rng = np.random.default_rng(0)
    shards = plan_shards(tensors, variant.shard_bytes)
    for file, members in shards.items():
        with ShardWriter(folder / file, members) as shard:
            for tensor in members:
                # The same random row over and over: written fast, and never held as a whole.
                row = rng.normal(size=tensor.shape[-1:]).astype(dtype)
                shard.append(np.broadcast_to(row, tensor.shape))
    write_index(folder, shards)
    return nbytes[-1]


def forget(folder: Path) -> None:
    """Drops the folder's files from the page cache."""
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


LOAD = """
import json, pathlib, re, sys, time
import jax, jax.numpy as jnp
from medvista_jax import models
from medvista_jax.runtime.mesh import make_mesh, parse_mesh
from medvista_jax.runtime.progress import Progress

folder, dtype, mesh = sys.argv[1:]
size = sum(path.stat().st_size for path in pathlib.Path(folder).glob("*.safetensors")) >> 20
mesh = make_mesh(parse_mesh(mesh)) if mesh else None
jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.zeros(3)))

def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1))

before, begun = kib("VmRSS") * 1024, time.perf_counter()
with Progress() as progress, progress.stage("loading, MiB", total=size) as stage:
    def tell(done, total):
        stage.advance((done >> 20) - stage.done)
    model, params = models.load(folder, dtype=dtype or None, mesh=mesh, progress=tell)
seconds = time.perf_counter() - begun
leaves = jax.tree.leaves(params)
buffers = {s.data.unsafe_buffer_pointer(): s.data.nbytes for leaf in leaves for s in leaf.addressable_shards}
print(json.dumps({
    "params_bytes": sum(buffers.values()),
    "peak_bytes": kib("VmHWM") * 1024 - before,
    "seconds": seconds,
}))
"""


def measure(name: str, bench: Bench) -> dict:
    """One variant: written, loaded in a fresh process, removed."""
    variant = VARIANTS[name]
    devices = 8 if variant.mesh else 1
    flags = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    root = str(Path(__file__).resolve().parent.parent)
    with tempfile.TemporaryDirectory(prefix="bench_load_") as folder:
        begun = time.perf_counter()
        stored = write_checkpoint(Path(folder), bench, variant)
        files = len(list(Path(folder).glob("*.safetensors")))
        print(
            f"[{name}] wrote {stored / GIB:.2f} GiB in {files} files, {time.perf_counter() - begun:.0f} s", flush=True
        )
        if bench.cold:
            forget(Path(folder))
        command = [sys.executable, "-c", LOAD, folder, variant.loaded or "", variant.mesh]
        environment = os.environ | flags | {"PYTHONPATH": root}
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result = {
        "variant": name,
        **dataclasses.asdict(variant),
        "files": files,
        "stored_bytes": stored,
        "cold": bench.cold,
    }
    result |= json.loads(run.stdout.splitlines()[-1])
    return result | {"beyond_bytes": result["peak_bytes"] - result["params_bytes"]}


def main(bench: Bench) -> int:
    results = []
    for name in bench.variants:
        results.append(measure(name, bench))
        if bench.json is not None:
            bench.json.write_text(json.dumps(results, indent=2) + "\n")
    line = "{:<8} {:>9} {:>5} {:>9} {:>15} {:>8} {:>8} {:>8} {:>8} {:>8}"
    print(line.format("variant", "stored", "files", "as", "devices", "params", "peak", "beyond", "seconds", "GB/s"))
    for r in results:
        sizes = (f"{r[key] / GIB:.2f} G" for key in ("params_bytes", "peak_bytes", "beyond_bytes"))
        times = f"{r['seconds']:.1f}", f"{r['stored_bytes'] / r['seconds'] / 1e9:.2f}"
        where = r["mesh"] or "one"
        print(line.format(r["variant"], r["stored"], r["files"], r["loaded"] or r["stored"], where, *sizes, *times))
    over = [r["variant"] for r in results if r["beyond_bytes"] > ALLOWED]
    if over:
        print(f"more than the parameters + 2 GiB: {', '.join(over)}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Bench, description=__doc__)))
