"""Play given turns through the environment without a policy: the source of SFT batches.

Observations come from the same ``step`` as in a rollout, so that what a policy is taught to expect is what it will see.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medvista_jax.core.types import Array, Question, Trajectory
from medvista_jax.environment import gym
from medvista_jax.environment.gym import Environment
from medvista_jax.models.vlm import VisionLanguageModel
from medvista_jax.rollout.encode import encode_images
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.record import empty_record, empty_turns, finish, total_slots, write, write_turn


def enact(
    model: VisionLanguageModel, environment: Environment, question: Question, script: Script
) -> tuple[Trajectory, Array]:
    """One episode a question, every turn as scripted (length 0: the row says nothing more).

    Returns:
      The trajectory (``features_BILE`` is ``None``, log-probabilities are 0) and the pixels of every image slot,
      uint8 ``[B, I, h, w, C]``, for the model to encode.
    """
    batch, prompt_slots = question.tokens_PS.shape
    state = gym.reset(environment, question, 1)
    record = empty_record(batch, total_slots(environment, prompt_slots), model.position_axes, environment.pad_id)
    positions_BSZ, next_B = model.positions(jnp.zeros((batch,), jnp.int32), question.valid_PS, question.feature_PS)
    record = write(
        record,
        0,
        question.tokens_PS,
        question.valid_PS,
        question.feature_PS,
        positions_BSZ,
        next_B,
        sampled=False,
    )
    turns = empty_turns(batch, environment.turns, environment.grammar.width)
    pixels = [gym.render_originals(environment, question.bank)]
    originals = pixels[0].shape[1]
    spare = environment.image_slots(originals) - originals
    pixels_BIhwC = jnp.pad(pixels[0], ((0, 0), (0, spare), (0, 0), (0, 0), (0, 0)))
    slots_T = jnp.arange(environment.turn_tokens)
    no_feature_BT = jnp.full((batch, environment.turn_tokens), -1, jnp.int32)
    at = prompt_slots
    for turn in range(environment.turns):
        active_B = ~state.done_B
        length_B = jnp.where(active_B, script.length_BR[:, turn], 0)
        tokens_BT = script.tokens_BRT[:, turn]
        valid_BT = slots_T[None, :] < length_B[:, None]
        positions_BTZ, next_B = model.positions(record.next_B, valid_BT, no_feature_BT)
        record = write(record, at, tokens_BT, valid_BT, no_feature_BT, positions_BTZ, next_B, sampled=True, turn=turn)
        at += environment.turn_tokens
        state, observation = gym.step(environment, state, tokens_BT, length_B)
        turns = write_turn(turns, turn, observation.parsed, length_B, active_B)
        if turn == environment.turns - 1:
            break
        # A row whose script is over must not hear the error that silence earns.
        more_B = script.length_BR[:, turn + 1] > 0
        valid_BW = observation.valid_BW & more_B[:, None]
        positions_BWZ, next_B = model.positions(record.next_B, valid_BW, observation.feature_BW)
        record = write(
            record,
            at,
            observation.tokens_BW,
            valid_BW,
            observation.feature_BW,
            positions_BWZ,
            next_B,
            sampled=False,
        )
        at += environment.observation_slots
        pixels_BIhwC = _put_views(environment, state, observation.slot_B, pixels_BIhwC)
    return finish(record, turns, state, None), pixels_BIhwC


def _put_views(environment: Environment, state: gym.EnvState, slot_B: Array, pixels_BIhwC: Array) -> Array:
    """The pixels with each row's new view at its slot; nothing is rendered when no row has one."""

    def render(pixels_BIhwC: Array) -> Array:
        view_BhwC = gym.render_views(environment, state.bank, state.views, slot_B)
        here_BI = jnp.arange(pixels_BIhwC.shape[1])[None, :] == slot_B[:, None]
        return jnp.where(here_BI[:, :, None, None, None], view_BhwC[:, None], pixels_BIhwC)

    return jax.lax.cond(jnp.any(slot_B >= 0), render, lambda pixels_BIhwC: pixels_BIhwC, pixels_BIhwC)


def encode_slots(model: VisionLanguageModel, params, pixels_BIhwC: Array):
    """Features of every image slot: leaves ``[B, I, L, …]``."""
    lead = pixels_BIhwC.shape[:2]
    flat = encode_images(model, params, pixels_BIhwC.reshape((-1,) + pixels_BIhwC.shape[2:]))
    return jax.tree.map(lambda x: x.reshape(lead + x.shape[1:]), flat)
