"""Compiling a program for chips that are not here, and what the compiler says of it, a chip."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from medvista_jax.runtime.aot import hlo
from medvista_jax.runtime.aot.plans import HBM, Plan
from medvista_jax.runtime.aot.programs import Program, Setting
from medvista_jax.runtime.mesh import AXES, MeshError


class NoCompiler(RuntimeError):
    """The TPU compiler is not installed, or knows no such topology."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A compiled program; sizes in bytes and operations, of one chip.

    Attributes:
      arguments, temporaries: memory that is set aside, with padding and the gaps that packing leaves.
      peak: what lives at one time by the compiler's simulation, arguments and results too, without padding and gaps.
      hbm: what the chip has.
      cache: the KV cache's share, which lies among the temporaries of a rollout.
      flops: of matrix products, loops counted as :mod:`medvista_jax.runtime.aot.hlo` says.
      model_flops: what the model's mathematics asks for, nothing computed twice; None where loops are open.
      bytes_accessed: by the compiler's estimate, bodies of loops once.
      collectives: kind -> [how often, bytes received].
      open_loops: loops whose end depends on the data; their bodies count once.
      optimal_seconds: the compiler's estimate; None where there are loops, or kernels of which it knows nothing (then
        it is negative).
      splash: places in the program that call a splash kernel.
      lower_seconds, compile_seconds: on this machine.
    """

    program: str
    chips: int
    arguments: int
    temporaries: int
    peak: int
    hbm: int
    cache: int
    flops: float
    model_flops: float | None
    bytes_accessed: float
    collectives: dict[str, tuple[float, float]]
    open_loops: int
    optimal_seconds: float | None
    splash: int
    lower_seconds: float
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """By the larger of both accounts."""
        return max(self.peak, self.arguments + self.temporaries) <= self.hbm


def topology_mesh(topology: str, sizes: tuple[int, ...]) -> Mesh:
    """A mesh of described chips.

    Raises:
      NoCompiler: libtpu is not installed, or knows no such topology.
      MeshError: the sizes do not multiply to its number of chips.
    """
    # Read when the first topology is asked for; there is no TPU whose metadata could be had.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is held, so several may compile side by side
    from jax.experimental import topologies
    from jax.experimental.mesh_utils import create_device_mesh

    try:
        described = topologies.get_topology_desc(topology_name=topology, platform="tpu")
    except (RuntimeError, ValueError, ImportError, OSError) as error:  # no library, or one that knows no such chips
        reason = " ".join(str(error).split())[:300]
        raise NoCompiler(
            f"no TPU compiler for topology {topology!r}: {reason}. 'make aot' installs it, or pip install "
            "'jax[tpu]' of this jax; topologies are named like v5e:8x8, v6e:4x4, v5p:2x2x1"
        ) from error
    count, wanted = len(described.devices), 1
    for size in sizes:
        wanted *= size
    if wanted != count:
        raise MeshError(f"a mesh of {' x '.join(map(str, sizes))} needs {wanted} chips, {topology} has {count}")
    # As jax.make_mesh does it for chips that are there: an axis may take a part of a side of the torus.
    devices = create_device_mesh(sizes, list(described.devices), allow_split_physical_axes=True)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def hbm_of(topology: str) -> int:
    """Bytes of a chip's memory. Raises NoCompiler for a kind of chip that is not listed."""
    kind = topology.split(":")[0]
    if kind not in HBM:
        raise NoCompiler(f"chip {kind!r} is not listed; there are {', '.join(HBM)}")
    return HBM[kind]


def compile_program(program: Program, setting: Setting) -> tuple[Any, Measured]:
    """Lower and compile; what comes back first is JAX's ``Compiled``."""
    with jax.set_mesh(setting.mesh):
        began = time.monotonic()
        lowered = jax.jit(program.run, donate_argnums=program.donated).lower(*program.arguments)
        lowered_at = time.monotonic()
        compiled = lowered.compile()
        done = time.monotonic()
    memory, analysis, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    cost = hlo.cost(text)
    loops, seconds = " while(" in text, analysis.get("optimal_seconds", 0.0)
    chips = setting.mesh.size
    return compiled, Measured(
        program=program.name,
        chips=chips,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.peak_memory_in_bytes,
        hbm=hbm_of(setting.plan.topology),
        cache=cache_bytes(setting) if program.name in ("rollout", "step") else 0,
        flops=cost.flops,
        model_flops=update_flops(setting) / chips if program.name == "update" else None,
        bytes_accessed=analysis.get("bytes accessed", 0.0),
        collectives=cost.collectives,
        open_loops=cost.open_loops,
        optimal_seconds=seconds if seconds > 0 and not loops else None,
        splash=hlo.kernels(text, "splash"),
        lower_seconds=lowered_at - began,
        compile_seconds=done - lowered_at,
    )


def cache_bytes(setting: Setting) -> int:
    """The KV cache of all rows, a chip."""
    cache = jax.eval_shape(lambda: setting.model.init_cache(setting.rows, setting.plan.context))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in (*cache.keys, *cache.values))
    shape = setting.mesh.shape
    kv_heads = setting.model.config.decoder.kv_heads
    return whole // (shape["data"] * shape["fsdp"] * (shape["tensor"] if kv_heads % shape["tensor"] == 0 else 1))


def update_flops(setting: Setting) -> float:
    """Operations of one update by the model's mathematics: forward once and backward twice, nothing again.

    Two a weight and token; causal attention, half of all pairs, two products of the heads' width; every slot of every
    row counts, and is scored.
    """
    c, plan = setting.model.config.decoder, setting.plan
    tokens = setting.rows * plan.context
    heads = c.width * (c.heads + 2 * c.kv_heads) * c.head_dim + c.heads * c.head_dim * c.width
    weights = c.layers * (heads + 3 * c.width * c.feed_forward) + c.vocab_size * c.width
    pairs = c.layers * c.heads * c.head_dim * plan.context / 2
    return 3.0 * tokens * (2.0 * weights + 4.0 * pairs)


def describe(plan: Plan) -> str:
    """A plan in a line."""
    data, fsdp, tensor = plan.mesh
    return (
        f"{plan.model} on {plan.topology}, data={data},fsdp={fsdp},tensor={tensor}: {plan.prompts} prompts x "
        f"{plan.group}, {plan.crops} crops, context {plan.context}, {plan.chunk} rows of the update at a time, "
        f"remat {plan.remat}"
    )
