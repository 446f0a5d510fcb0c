"""Plans: which model, on which chips, cut how, for a step of which size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from medvista_jax.models.blocks import DecoderConfig
from medvista_jax.models.internvl import InternVL
from medvista_jax.models.internvl.modeling import InternVLConfig
from medvista_jax.models.internvl.modeling import VisionConfig as InternVision
from medvista_jax.models.qwen3_vl import Qwen3VL
from medvista_jax.models.qwen3_vl.modeling import Qwen3VLConfig
from medvista_jax.models.qwen3_vl.modeling import VisionConfig as QwenVision

GIB = 2**30


HBM = {"v4": 32 * GIB, "v5e": 16 * GIB, "v5p": 95 * GIB, "v6e": 32 * GIB, "tpu7x": 192 * GIB}
"""Kind of chip -> bytes of its memory, as cloud.google.com/tpu/docs has it."""


def qwen3_vl_8b() -> Qwen3VL:
    """Qwen/Qwen3-VL-8B-Instruct; an image of 512 x 512 pixels costs 256 embeddings."""
    decoder = DecoderConfig(
        vocab_size=151936,
        width=4096,
        layers=36,
        heads=32,
        kv_heads=8,
        head_dim=128,
        feed_forward=12288,
        rope_theta=5_000_000.0,
        tied=False,
        qk_norm=True,
        mrope_section=(24, 20, 20),
        mrope_interleaved=True,
        embedding_scale=1.0,
    )
    vision = QwenVision(width=1152, layers=27, heads=16, feed_forward=4304, out_width=4096)
    return Qwen3VL(Qwen3VLConfig(vision, decoder, image_token=151655), image_size=(512, 512), dtype="bfloat16")


def internvl3_8b() -> InternVL:
    """OpenGVLab/InternVL3-8B-hf; a tile of 448 x 448 pixels costs 256 embeddings."""
    decoder = DecoderConfig(
        vocab_size=151674,
        width=3584,
        layers=28,
        heads=28,
        kv_heads=4,
        head_dim=128,
        feed_forward=18944,
        rope_theta=1_000_000.0,
        tied=False,
        qkv_bias=True,
        embedding_scale=1.0,
        max_positions=32768,
    )
    vision = InternVision(
        width=1024, layers=24, heads=16, feed_forward=4096, image_size=(448, 448), patch=(14, 14), qkv_bias=True
    )
    return InternVL(InternVLConfig(vision, decoder, image_token=151667), image_size=(448, 448), dtype="bfloat16")


def qwen3_vl_small() -> Qwen3VL:
    """Of the same family and head width as the large one, for plans that compile within a minute; no such checkpoint
    was published."""
    decoder = DecoderConfig(
        vocab_size=4096,
        width=512,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=128,
        feed_forward=1024,
        tied=False,
        qk_norm=True,
        mrope_section=(24, 20, 20),
        mrope_interleaved=True,
        embedding_scale=1.0,
    )
    vision = QwenVision(width=128, layers=2, heads=2, feed_forward=256, out_width=512, deepstack=(0,))
    return Qwen3VL(Qwen3VLConfig(vision, decoder, image_token=4000), image_size=(128, 128), dtype="bfloat16")


MODELS: dict[str, Callable[[], Any]] = {
    "qwen3-vl-8b": qwen3_vl_8b,
    "internvl3-8b": internvl3_8b,
    "qwen3-vl-small": qwen3_vl_small,
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A step to compile.

    Attributes:
      model: a key of :data:`MODELS`, or a folder in the hub's layout.
      topology: as JAX names it, ``"v6e:4x4"``.
      mesh: sizes of ``data``, ``fsdp``, ``tensor``.
      prompts, group: ``prompts * group`` trajectories a step.
      crops: tool calls that return an image; turns are one more.
      context: slots of a trajectory.
      chunk: rows of the update at a time, over all chips.
      remat: key of :data:`medvista_jax.models.blocks.REMAT`, or ``"none"``.
      canvas: pixels a side of the originals, uint16.
    """

    model: str = "qwen3-vl-8b"
    topology: str = "v6e:4x4"
    mesh: tuple[int, int, int] = (1, 4, 4)
    prompts: int = 32
    group: int = 8
    crops: int = 3
    context: int = 4096
    chunk: int = 4
    remat: str = "full"
    canvas: int = 1024


PLANS: dict[str, Plan] = {
    "qwen3-vl-8b/v5e-64": Plan("qwen3-vl-8b", "v5e:8x8", (1, 8, 8), chunk=8),
    "qwen3-vl-8b/v6e-16": Plan("qwen3-vl-8b", "v6e:4x4", (1, 4, 4), chunk=4),
    "qwen3-vl-8b/v5p-8": Plan("qwen3-vl-8b", "v5p:2x2x1", (1, 1, 4), chunk=1),
    "internvl3-8b/v5e-64": Plan("internvl3-8b", "v5e:8x8", (1, 16, 4), chunk=16),
    "internvl3-8b/v6e-16": Plan("internvl3-8b", "v6e:4x4", (1, 4, 4), chunk=4),
    "internvl3-8b/v5p-8": Plan("internvl3-8b", "v5p:2x2x1", (1, 1, 4), chunk=1),
}
"""By name: model, and machine as Cloud TPU names it (v5p-8 counts cores: it is four chips)."""

SMALL = Plan("qwen3-vl-small", "v5e:2x2", (1, 2, 2), prompts=4, group=4, crops=1, context=1024, chunk=4, canvas=256)
"""What the tests compile."""
