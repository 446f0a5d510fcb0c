"""Perception: image encoder and connector learn dense labels of the training images; then the encoder stays frozen.

The stand-in for a pretrained VLM's eyes. The labels are read linearly off the embeddings that the decoder will get.
Every condition of a table starts from the same eyes.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from medvista_jax.core.types import Array
from medvista_jax.learning.state import FlatParams, TrainState, apply_gradients, join
from medvista_jax.models.medvista_tiny import MedVistaTiny
from medvista_jax.tools.resample import apply_window, crop_resize


@dataclasses.dataclass(frozen=True)
class PerceptionConfig:
    """Settings of the loss.

    Attributes:
      concepts: how many.
      cells: labels a side and patch; each patch names the concept at ``cells²`` points.
      weights: of each concept in the loss; 1 beyond the end.
      coarse_gain: factor on weights above 1 in views of more than half an image, where such things are small.
      kinds: coarser kind of each concept. Views of more than half an image are asked for the kind only, since they
        cannot show the rest (the class of an implanted target, by construction).
    """

    concepts: int = 48
    cells: int = 2
    weights: tuple[float, ...] = ()
    coarse_gain: float = 8.0
    kinds: tuple[int, ...] = ()


@struct.dataclass
class PerceptionBatch:
    """Images with dense labels and the boxes to look at them through.

    Attributes:
      pixels_PYXC: stored intensities.
      concepts_PYX: uint8 concept ids at canvas resolution.
      window_B2: float32 display window of each view, ``B = P * views``.
      box_B4: float32 x1 y1 x2 y2 in 0…1 of each view.
    """

    pixels_PYXC: Array
    concepts_PYX: Array
    window_B2: Array
    box_B4: Array


def init_head(model: MedVistaTiny, config: PerceptionConfig, key: Array) -> dict[str, Array]:
    """Linear read-out of each embedding, which stands for 2×2 patches: ``{"kernel", "bias"}``.

    The bias is the embedding's own: what is usual at a place need not be said by the embedding.
    """
    outputs = config.concepts * (2 * config.cells) ** 2
    width = model.config.decoder_config().width
    kernel = jax.random.normal(key, (width, outputs)) * width**-0.5
    return {"kernel": kernel, "bias": jnp.zeros((model.tokens_per_image, outputs))}


def labels_at(concepts_PYX: Array, box_B4: Array, side: int) -> Array:
    """Nearest concept at a ``side × side`` grid of points of each box: int32 ``[B, side, side]``."""
    prompts, rows, columns = concepts_PYX.shape
    group = box_B4.shape[0] // prompts
    offset_N = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side
    x_BN = box_B4[:, 0:1] + offset_N[None] * (box_B4[:, 2:3] - box_B4[:, 0:1])
    y_BN = box_B4[:, 1:2] + offset_N[None] * (box_B4[:, 3:4] - box_B4[:, 1:2])
    column_BN = jnp.clip((x_BN * columns).astype(jnp.int32), 0, columns - 1)
    row_BN = jnp.clip((y_BN * rows).astype(jnp.int32), 0, rows - 1)
    prompt_B = jnp.repeat(jnp.arange(prompts), group)
    return concepts_PYX[prompt_B[:, None, None], row_BN[:, :, None], column_BN[:, None, :]].astype(jnp.int32)


def perception_loss(
    model: MedVistaTiny,
    config: PerceptionConfig,
    trainable: FlatParams,
    frozen: FlatParams,
    pixels_BhwC: Array,
    labels_BNN: Array,
    coarse_B: Array,
) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the concept at every cell, of its kind where ``coarse_B``."""
    params = join(trainable, frozen)
    embeddings_BLE = model.encode_images(params, pixels_BhwC)
    batch = embeddings_BLE.shape[0]
    side, cells = model.config.image // model.config.patch // 2, 2 * config.cells
    head = params["head"]
    logits = embeddings_BLE @ head["kernel"] + head["bias"][None]
    logits = logits.reshape(batch, side, side, cells, cells, config.concepts)
    labels = labels_BNN.reshape(batch, side, cells, side, cells).transpose(0, 1, 3, 2, 4)
    table = jnp.ones((config.concepts,)).at[: len(config.weights)].set(jnp.asarray(config.weights))
    weight = table[labels]
    log_p = jax.nn.log_softmax(logits, axis=-1)
    kinds = jnp.asarray(config.kinds or tuple(range(config.concepts)))
    member = (kinds[:, None] == kinds[None, :]).astype(jnp.float32)
    coarse_p = jnp.exp(log_p) @ member  # of the concept's whole kind
    pick = lambda values: jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]  # noqa: E731
    coarse = coarse_B[:, None, None, None, None]
    heavy = weight > 1.0
    weight = jnp.where(heavy & coarse, weight * config.coarse_gain, weight)
    nll = -jnp.where(coarse, jnp.log(pick(coarse_p) + 1e-9), pick(log_p))
    best = jnp.where(coarse[..., None], coarse_p, jnp.exp(log_p))
    hit = (pick(best) >= jnp.max(best, axis=-1)).astype(jnp.float32)
    loss = jnp.sum(nll * weight) / jnp.sum(weight)
    return loss, {
        "loss": loss,
        "accuracy": jnp.mean(hit),
        "accuracy_heavy_coarse": _share(hit, heavy & coarse),
        "accuracy_heavy_fine": _share(hit, heavy & ~coarse),
    }


def _share(hit: Array, mask: Array) -> Array:
    return jnp.sum(hit * mask) / jnp.maximum(jnp.sum(mask), 1)


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def perception_step(
    model: MedVistaTiny,
    optimizer: optax.GradientTransformation,
    config: PerceptionConfig,
    state: TrainState,
    batch: PerceptionBatch,
) -> tuple[TrainState, dict[str, Array]]:
    """Render the views, label them, update encoder and head."""
    side = model.config.image
    shown_BhwC = crop_resize(batch.pixels_PYXC, batch.box_B4, side, side)
    pixels_BhwC = apply_window(shown_BhwC, batch.window_B2)
    labels_BNN = labels_at(batch.concepts_PYX, batch.box_B4, side // model.config.patch * config.cells)
    loss = partial(perception_loss, model, config)
    (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(
        state.trainable, state.frozen, pixels_BhwC, labels_BNN, batch.box_B4[:, 2] - batch.box_B4[:, 0] > 0.5
    )
    return apply_gradients(state, gradients, optimizer), metrics | {"gradient_norm": optax.global_norm(gradients)}
