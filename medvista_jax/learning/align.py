"""Aligning a connector between a frozen vision tower and a frozen language model.

Two stages on the same parameters. *Words in place* needs no language model: each embedding of an image learns to be
the input embedding of the word for what lies there. *Lessons* run through the language model: captions and answers are
learned token by token, and gradients flow through its activations, never into its weights.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from medvista_jax.core.types import Array, Params
from medvista_jax.learning.state import TrainState, apply_gradients, join

Metrics = dict[str, Array]


@struct.dataclass
class WordBatch:
    """Images and the words for their places.

    Attributes:
      patches_NYXE: features of the frozen tower.
      word_NL: int32, a row of the table of words for each embedding of the image.
    """

    patches_NYXE: Array
    word_NL: Array


@struct.dataclass
class LessonBatch:
    """Images, each with a prompt and what should be said.

    Attributes:
      patches_BYXE: features of the frozen tower.
      tokens_BT: int32 ids of prompt and answer, padded on the right.
      feature_BT: int32 ``k`` at the k-th embedding of the image, -1 for text.
      valid_BT: bool.
      slot_BC: int32 slots of the answer's ids, -1 where there are fewer than C.
    """

    patches_BYXE: Array
    tokens_BT: Array
    feature_BT: Array
    valid_BT: Array
    slot_BC: Array


def word_table(embedding_VE: Array, ids: list[list[int]]) -> Array:
    """Mean input embedding of each word's ids, float32 ``[W, E]``.

    A word without ids says nothing: it is the mean of the vocabulary, which the language model passes over.
    """
    embedding_VE = jnp.asarray(embedding_VE, jnp.float32)
    rows = [embedding_VE[jnp.asarray(word, jnp.int32)] if word else embedding_VE for word in ids]
    return jnp.stack([jnp.mean(row, axis=0) for row in rows])


@partial(jax.jit, static_argnames=("model", "optimizer"), donate_argnames=("state",))
def words_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    table_WE: Array,
    weight_W: Array,
    state: TrainState,
    batch: WordBatch,
) -> tuple[TrainState, Metrics]:
    """One update of the connector towards the words in place.

    Args:
      model: has ``connect(params, patches)``.
      table_WE: of :func:`word_table`.
      weight_W: float32, how much a place with that word counts; what is rare and small should count more.

    Returns:
      The new state and ``loss`` (squared distance), ``named`` (share of places whose nearest word is the right one).
    """

    def loss_of(trainable):
        made_NLE = model.connect(join(trainable, state.frozen), batch.patches_NYXE.astype(jnp.float32))
        gap_NL = jnp.sum(jnp.square(made_NLE - table_WE[batch.word_NL]), axis=-1)
        weight_NL = weight_W[batch.word_NL]
        return jnp.sum(weight_NL * gap_NL) / jnp.sum(weight_NL), made_NLE

    (loss, made_NLE), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
    # The nearest by |a - b|², less |a|², which all words share.
    nearness_NLW = 2 * jnp.einsum("nle,we->nlw", made_NLE, table_WE) - jnp.sum(table_WE**2, axis=-1)[None, None]
    named = jnp.mean(jnp.argmax(nearness_NLW, axis=-1) == batch.word_NL)
    return apply_gradients(state, gradients, optimizer), {"loss": loss, "named": named}


def lesson_scores(model: Any, params: Params, batch: LessonBatch) -> tuple[Array, Array]:
    """Log-probability of every id of the answers, and whether it was the likeliest: ``[B, C]`` each, 0 at holes.

    Logits are computed at the answers' slots only.
    """
    features = model.connect(params, batch.patches_BYXE.astype(jnp.float32))[:, None]
    start_B = jnp.zeros((len(batch.tokens_BT),), jnp.int32)
    positions_BTZ, _ = model.positions(start_B, batch.valid_BT, batch.feature_BT)
    hidden_BTE, _ = model.forward(params, batch.tokens_BT, batch.feature_BT, features, positions_BTZ, batch.valid_BT)
    there_BC = batch.slot_BC > 0
    before_BC = jnp.maximum(batch.slot_BC - 1, 0)
    hidden_BCE = jnp.take_along_axis(hidden_BTE, before_BC[..., None], axis=1)
    want_BC = jnp.take_along_axis(batch.tokens_BT, before_BC + 1, axis=1)
    logits_BCV = model.logits(params, hidden_BCE)
    picked_BC = jnp.take_along_axis(logits_BCV, want_BC[..., None], axis=-1)[..., 0]
    logprob_BC = picked_BC - jax.nn.logsumexp(logits_BCV, axis=-1)
    right_BC = jnp.argmax(logits_BCV, axis=-1) == want_BC
    return jnp.where(there_BC, logprob_BC, 0.0), jnp.where(there_BC, right_BC, False)


@partial(jax.jit, static_argnames=("model", "optimizer"), donate_argnames=("state",))
def lessons_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    frozen: Params,
    state: TrainState,
    batch: LessonBatch,
) -> tuple[TrainState, Metrics]:
    """One update of the connector on captions and answers.

    Args:
      model: has ``connect`` beside the protocol of :mod:`medvista_jax.models.vlm`.
      frozen: nested parameters that are no part of the state, the decoder: checkpoints stay small.

    Returns:
      The new state and ``loss`` (nats a token of the answers), ``right`` (share of them that were the likeliest),
      ``grad_norm``.
    """

    def loss_of(trainable):
        logprob_BC, right_BC = lesson_scores(model, {**frozen, **join(trainable, state.frozen)}, batch)
        count = jnp.sum(batch.slot_BC > 0)
        return -jnp.sum(logprob_BC) / count, jnp.sum(right_BC) / count

    (loss, right), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.trainable)
    metrics = {"loss": loss, "right": right, "grad_norm": optax.tree.norm(gradients)}
    return apply_gradients(state, gradients, optimizer), metrics
