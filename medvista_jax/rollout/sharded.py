"""The rollout with prompts spread over devices that do not wait for one another.

Under plain partitioning every decoding step ends in a question to all devices, whether anybody has more to say. Here
each device (with ``tensor``, each group of devices that share its products) runs a loop of its own over its share of
the prompts and leaves it when those are done.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import Mesh, PartitionSpec

from medvista_jax.core.types import Array, Params, Question, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.loop import Script, play_rows
from medvista_jax.rollout.sampling import Sampling, row_keys


def rollout_sharded(
    mesh: Mesh,
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    question: Question,
    key: Array,
    group: int,
    sampling: Sampling,
    script: Script | None = None,
    axis: str = "data",
) -> Trajectory:
    """:func:`medvista_jax.rollout.loop.rollout`, prompts split over an axis of a mesh; same tokens for the same key.

    Args:
      mesh, model, group, axis: static. Parameters are the same all along ``axis``; how they lie along the mesh's other
        axes is left to the compiler.

    Raises:
      ValueError: the axis does not divide the prompts.
    """
    prompts, devices = question.tokens_PS.shape[0], mesh.shape[axis]
    if prompts % devices:
        raise ValueError(
            f"{prompts} prompts cannot be split over {devices} devices of axis {axis!r}; give a multiple of {devices}"
        )
    keys_B = row_keys(key, prompts, group)
    whole, split = PartitionSpec(), PartitionSpec(axis)
    play: Callable[..., Trajectory] = jax.shard_map(
        partial(play_rows, model),
        mesh=mesh,
        in_specs=(whole, whole, split, split, whole, split),
        out_specs=split,
        axis_names={axis},
        check_vma=False,
    )
    return play(params, environment, question, keys_B, sampling, script)
