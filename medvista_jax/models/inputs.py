"""Inputs as the hub's processors hand them over, turned into the arguments of our ``forward``."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Params
from medvista_jax.models.hub_model import HubModel
from medvista_jax.models.mrope import grid_positions
from medvista_jax.models.vlm import Features


class BadInputs(ValueError):
    """Inputs that do not fit each other or the model. The message says which and how."""


class Batch(NamedTuple):
    """The arguments of :meth:`medvista_jax.models.vlm.VisionLanguageModel.forward` behind ``params``, and ``next_B``:
    the rotary position at which each row goes on."""

    tokens_BT: Array
    feature_BT: Array
    features: Features
    positions_BTZ: Array
    valid_BT: Array
    next_B: Array


def hub_batch(
    model: HubModel,
    params: Params,
    input_ids: np.ndarray,
    attention_mask: np.ndarray | None = None,
    pixel_values: np.ndarray | None = None,
    image_grid_thw: np.ndarray | None = None,
) -> Batch:
    """Encode the images and put their embeddings in the places of the image tokens, in the order of the rows.

    Args:
      input_ids: int ``[B, T]``; every id of the model's image token stands for one embedding.
      attention_mask: ``[B, T]``, 0 at padding on either side; all ones if absent.
      pixel_values, image_grid_thw: as transformers takes them; absent for text alone.

    Raises:
      BadInputs: shapes that do not fit, or as many image tokens as there are embeddings are not to be found.
    """
    tokens_BT = np.asarray(input_ids)
    if tokens_BT.ndim != 2 or not np.issubdtype(tokens_BT.dtype, np.integer):
        raise BadInputs(f"input_ids must be integers [B, T], not {tokens_BT.dtype} {tokens_BT.shape}")
    if tokens_BT.size and (tokens_BT.min() < 0 or tokens_BT.max() >= model.vocab_size):
        raise BadInputs(f"input_ids must lie in 0…{model.vocab_size - 1}; found {tokens_BT.min()}…{tokens_BT.max()}")
    try:
        model.config.decoder.require_slots(tokens_BT.shape[1])
    except ValueError as error:
        raise BadInputs(f"input_ids: {error}") from None
    valid_BT = np.ones_like(tokens_BT, bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if valid_BT.shape != tokens_BT.shape:
        raise BadInputs(f"attention_mask is {valid_BT.shape}, input_ids {tokens_BT.shape}; they must agree")
    image_BT = (tokens_BT == model.config.image_token) & valid_BT
    if pixel_values is None:
        features, places, count = _no_features(model), None, 0
    else:
        pixels = np.asarray(pixel_values)
        if not np.issubdtype(pixels.dtype, np.floating):
            raise BadInputs(f"pixel_values must be normalised floating-point numbers, not {pixels.dtype}")
        features, places = model.encode_inputs(params, pixels.astype(np.float32, copy=False), image_grid_thw)
        count = len(jax.tree.leaves(features)[0])
    if image_BT.sum() != count:
        raise BadInputs(
            f"input_ids has {image_BT.sum()} image tokens (id {model.config.image_token}), the images give {count} "
            "embeddings; expand the image placeholder to one token an embedding"
        )
    # Each row's own embeddings, padded to the row that has the most.
    most = max(1, int(image_BT.sum(axis=1).max(initial=0)))
    first_B = np.cumsum(image_BT.sum(axis=1)) - image_BT.sum(axis=1)
    index_BL = np.minimum(first_B[:, None] + np.arange(most)[None], max(count - 1, 0))
    feature_BT = np.where(image_BT, np.cumsum(image_BT, axis=1) - 1, -1).astype(np.int32)
    own = jax.tree.map(lambda leaf: leaf[index_BL][:, None], features)
    start_B = jnp.zeros((len(tokens_BT),), jnp.int32)
    if model.position_axes == 3:
        table_BL3 = np.zeros((1, 1, 3), np.int32) if places is None else places[index_BL]
        positions_BTZ, next_B = grid_positions(
            start_B, jnp.asarray(valid_BT), jnp.asarray(feature_BT), jnp.asarray(table_BL3)
        )
    else:
        positions_BTZ, next_B = model.positions(start_B, jnp.asarray(valid_BT), jnp.asarray(feature_BT))
    tokens_BT = jnp.asarray(tokens_BT, jnp.int32)
    return Batch(tokens_BT, jnp.asarray(feature_BT), own, positions_BTZ, jnp.asarray(valid_BT), next_B)


def _no_features(model: HubModel) -> Features:
    """Features of no image: one embedding of zeros, so that shapes are whole."""
    h, w = model.image_size
    shapes = jax.eval_shape(model.encode_images, model.abstract_params(), jax.ShapeDtypeStruct((1, h, w, 3), jnp.uint8))
    return jax.tree.map(lambda leaf: jnp.zeros((1,) + leaf.shape[2:], model.dtype), shapes)


@partial(jax.jit, static_argnames=("model",))
def hub_logits(model: HubModel, params: Params, batch: Batch) -> Array:
    """float32 logits ``[B, T, V]`` of a batch, padding included (where they mean nothing)."""
    hidden_BTE, _ = model.forward(params, *batch[:5])
    return model.logits(params, hidden_BTE)
