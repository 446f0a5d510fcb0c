"""Perception: image encoder and connector learn dense labels of the training images; then the encoder stays frozen.

The stand-in for a pretrained VLM's eyes. Three things are read linearly off the embeddings that the decoder will get:
what lies at each point; in a view of (nearly) a whole image, which embeddings show part of a target and where its
middle is; in a closer view, what that target is.
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
from medvista_jax.learning.dense_labels import Labels, labels_at, names_at, places_at
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
      bins: places a side that the middle of a target may have.
      place_weight, name_weight: of the losses of places and names, beside 1 for concepts.
    """

    concepts: int = 48
    cells: int = 2
    weights: tuple[float, ...] = ()
    coarse_gain: float = 3.0
    kinds: tuple[int, ...] = ()
    bins: int = 20
    place_weight: float = 0.7
    name_weight: float = 2.0


@struct.dataclass
class PerceptionBatch:
    """Images with dense labels and the boxes to look at them through.

    Attributes:
      pixels_PYXC: stored intensities.
      concepts_PYX: uint8 concept ids at canvas resolution.
      window_B2: float32 display window of each view, ``B = P * views``.
      box_B4: float32 x1 y1 x2 y2 in 0…1 of each view.
      targets_PR4: float32 x1 y1 x2 y2 in 0…1 of the image's targets; boxes without area stand for none.
      named_PR: int32 concept of each target.
    """

    pixels_PYXC: Array
    concepts_PYX: Array
    window_B2: Array
    box_B4: Array
    targets_PR4: Array
    named_PR: Array


def init_head(model: MedVistaTiny, config: PerceptionConfig, key: Array) -> dict[str, Array]:
    """Linear read-outs of each embedding, which stands for 2×2 patches: ``{"kernel", "bias", "place"}``.

    The bias is the embedding's own: what is usual at a place need not be said by the embedding. Places have none, so
    that the embedding must say where it is.
    """
    outputs = config.concepts * (2 * config.cells) ** 2
    width = model.config.decoder_config().width
    kernels = [
        jax.random.normal(part, (width, count)) * width**-0.5
        for part, count in zip(jax.random.split(key, 3), (outputs, 2 * (config.bins + 1), config.concepts), strict=True)
    ]
    bias = jnp.zeros((model.tokens_per_image, outputs))
    return {"kernel": kernels[0], "bias": bias, "place": kernels[1], "name": kernels[2]}


def place_loss(
    embeddings_BLE: Array, kernel: Array, places_BL2: Array, asked_B: Array, bins: int
) -> tuple[Array, Array, Array]:
    """Cross-entropy of the places, of "no target here" too, divided by the count of embeddings that show a target.

    Args:
      asked_B: views that count.

    Returns:
      The loss; the share of those embeddings that are told from others; how far off their best guess is, on average,
      in views a side.
    """
    logits_BL2N = (embeddings_BLE @ kernel).reshape(*places_BL2.shape, bins + 1)
    known_BL2 = (places_BL2 >= 0) & asked_B[:, None, None]
    truth_BL2 = jnp.where(known_BL2, places_BL2, bins)
    nll_BL2 = optax.softmax_cross_entropy_with_integer_labels(logits_BL2N, truth_BL2)
    guess_BL2 = jnp.argmax(logits_BL2N[..., :bins], axis=-1)
    seen_BL2 = jnp.argmax(logits_BL2N, axis=-1) < bins
    off_BL2 = jnp.abs(guess_BL2 - places_BL2).astype(jnp.float32) / bins
    loss = jnp.sum(nll_BL2 * asked_B[:, None, None]) / jnp.maximum(jnp.sum(known_BL2), 1)
    return loss, _share(seen_BL2, known_BL2), _share(off_BL2, known_BL2)


def name_loss(embeddings_BLE: Array, kernel: Array, names_BL: Array, asked_B: Array) -> tuple[Array, Array]:
    """Mean cross-entropy of the targets' concepts and the share named rightly, over embeddings with a name."""
    asked_BL = (names_BL >= 0) & asked_B[:, None]
    logits_BLN = embeddings_BLE @ kernel
    nll_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLN, jnp.maximum(names_BL, 0))
    return _share(nll_BL, asked_BL), _share(jnp.argmax(logits_BLN, axis=-1) == names_BL, asked_BL)


def concept_loss(
    config: PerceptionConfig, embeddings_BLE: Array, head: dict[str, Array], cells_BNN: Array, coarse_B: Array
) -> tuple[Array, dict[str, Array]]:
    """Weighted mean cross-entropy of the concept at every cell, of its kind where ``coarse_B``; and accuracies."""
    batch, count = embeddings_BLE.shape[:2]
    side, cells = round(count**0.5), 2 * config.cells
    logits = (embeddings_BLE @ head["kernel"] + head["bias"][None]).reshape(
        batch, side, side, cells, cells, config.concepts
    )
    labels = cells_BNN.reshape(batch, side, cells, side, cells).transpose(0, 1, 3, 2, 4)
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
    return jnp.sum(nll * weight) / jnp.sum(weight), {
        "accuracy": jnp.mean(hit),
        "accuracy_heavy_coarse": _share(hit, heavy & coarse),
        "accuracy_heavy_fine": _share(hit, heavy & ~coarse),
    }


def perception_loss(
    model: MedVistaTiny,
    config: PerceptionConfig,
    trainable: FlatParams,
    frozen: FlatParams,
    pixels_BhwC: Array,
    labels: Labels,
) -> tuple[Array, dict[str, Array]]:
    """Weighted sum of the losses of concepts, places (coarse views) and names (the others), and metrics."""
    params = join(trainable, frozen)
    head = params["head"]
    embeddings_BLE = model.encode_images(params, pixels_BhwC)
    concepts, accuracies = concept_loss(config, embeddings_BLE, head, labels.cells_BNN, labels.coarse_B)
    places, seen, off = place_loss(embeddings_BLE, head["place"], labels.places_BL2, labels.coarse_B, config.bins)
    names, named = name_loss(embeddings_BLE, head["name"], labels.names_BL, ~labels.coarse_B)
    loss = concepts + config.place_weight * places + config.name_weight * names
    return loss, accuracies | {
        "loss": loss,
        "concept_loss": concepts,
        "place_loss": places,
        "name_loss": names,
        "names_right": named,
        "targets_seen": seen,
        "place_off": off,
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
    prompts, rows, columns = batch.pixels_PYXC.shape[:3]
    size_P12 = jnp.tile(jnp.array([rows, columns], jnp.int32)[None, None], (prompts, 1, 1))
    box_B4 = batch.box_B4 * jnp.array([columns, rows, columns, rows], jnp.float32)[None]
    source_B = jnp.zeros((len(box_B4),), jnp.int32)
    shown_BhwC = crop_resize(batch.pixels_PYXC[:, None], source_B, box_B4, size_P12, side, side)
    pixels_BhwC = apply_window(shown_BhwC, batch.window_B2)
    patches = side // model.config.patch
    labels = Labels(
        cells_BNN=labels_at(batch.concepts_PYX, batch.box_B4, patches * config.cells),
        coarse_B=batch.box_B4[:, 2] - batch.box_B4[:, 0] > 0.5,
        places_BL2=places_at(batch.targets_PR4, batch.box_B4, patches // 2, config.bins),
        names_BL=names_at(batch.targets_PR4, batch.named_PR, batch.box_B4, patches // 2),
    )
    (_, metrics), gradients = jax.value_and_grad(partial(perception_loss, model, config), has_aux=True)(
        state.trainable, state.frozen, pixels_BhwC, labels
    )
    return apply_gradients(state, gradients, optimizer), metrics | {"gradient_norm": optax.tree.norm(gradients)}
