"""Pytrees that cross the border of a compiled program. Letters: :mod:`medvista_jax.core.dimensions`."""

from __future__ import annotations

import enum
from typing import Any

import jax
import numpy as np
from flax import struct

Array = jax.Array
Params = Any


class Fault(enum.IntEnum):
    """Why a turn was not carried out. The policy reads one text for each (promise 5)."""

    NONE = 0
    NO_ACTION = 1  # neither a complete tool call nor a complete answer before the turn's tokens ran out
    MALFORMED = 2  # the call is not JSON of the dialect
    UNKNOWN_TOOL = 3
    UNKNOWN_ARGUMENT = 4
    MISSING_ARGUMENT = 5
    WRONG_TYPE = 6
    OUT_OF_RANGE = 7
    EMPTY_BOX = 8  # zero or negative area
    NO_SUCH_IMAGE = 9
    NO_CALLS_LEFT = 10
    NO_IMAGES_LEFT = 11
    TOOL_FAILED = 12
    TOOL_TIMED_OUT = 13
    UNSUITABLE_IMAGE = 14  # such as stain separation of a grey image


class Kind(enum.IntEnum):
    """What a turn turned out to be."""

    NOTHING = 0
    CALL = 1
    ANSWER = 2


@struct.dataclass
class ParsedTurn:
    """What the transducer makes of one turn of each row.

    Attributes:
      kind_B: int32, :class:`Kind`. A turn whose call is faulty is still ``CALL``.
      fault_B: int32, :class:`Fault` as far as the text alone can tell.
      tool_B: int32 index of the tool, -1 when there is none.
      arguments_BA: int32 slots in the order of the tool's spec, defaults filled in, 0 beyond its width.
      well_formed_B: bool, the turn is ``<think>…</think>`` and then exactly one call or answer, nothing else
        but white space.
      answer_BN: uint8 bytes between the answer tags, zero-padded on the right.
      answer_length_B: int32, 0 when there is no answer or one too long to keep.
    """

    kind_B: Array
    fault_B: Array
    tool_B: Array
    arguments_BA: Array
    well_formed_B: Array
    answer_BN: Array
    answer_length_B: Array


class Blend(enum.IntEnum):
    """How the two panels of a view make one image."""

    ONE = 0  # panel A only
    SEAM = 1  # panel A on one side of a line, panel B on the other
    DIFFERENCE = 2  # |A - B|


@struct.dataclass
class View:
    """One image as a recipe over original pixels, so that a crop of a crop is exact (promise 7).

    Whatever a tool does to a view, the pixels are sampled anew from the originals: geometry composes, the window is
    replaced, effects are applied again. Leaves may have leading axes, ``[B, I]`` in :class:`Views`.

    Attributes:
      source: int32 ``[2]``, original image of panel A and of panel B.
      affine: float32 ``[2, 2, 3]``, a panel's map from (u, v, 1), 0…1 of the view to the right and down, to (x, y)
        in pixels of its original.
      window: float32 ``[2, 2]``, a panel's low and high in stored units, shown as black and white.
      blend: int32 :class:`Blend`.
      seam: float32 ``[3]``, a, b, c: panel A is shown where ``a u + b v < c``.
      effect: int32 ``[E]``, effects on the displayed levels in the order of their application, each one more than the
        index of its tool; 0 for none.
      values: float32 ``[E, N]``, what each effect was called with.
    """

    source: Array
    affine: Array
    window: Array
    blend: Array
    seam: Array
    effect: Array
    values: Array


@struct.dataclass
class Views:
    """The images of a trajectory: originals, then what tools returned.

    Attributes:
      view: leaves ``[B, I, …]``.
      count_B: int32, how many slots are in use.
    """

    view: View
    count_B: Array


@struct.dataclass
class ImageBank:
    """Original pixels, one row a *prompt*: rows of a group share them without a copy.

    Attributes:
      pixels_POYXC: uint8 or uint16, stored intensities, padded at the right and the bottom.
      window_PO2: float32, the default display window of each original, in stored units.
      count_P: int32, how many of the O originals exist.
      size_PO2: int32 rows and columns in use.
      spacing_PO2: float32 millimetres from one row and one column to the next; 0 where the image does not tell.
      rescale_PO2: float32 slope and intercept: physical = stored * slope + intercept.
    """

    pixels_POYXC: Array
    window_PO2: Array
    count_P: Array
    size_PO2: Array
    spacing_PO2: Array
    rescale_PO2: Array

    @classmethod
    def of(
        cls,
        pixels_POYXC: np.ndarray,
        window_PO2: np.ndarray,
        count_P: np.ndarray | None = None,
        size_PO2: np.ndarray | None = None,
        spacing_PO2: np.ndarray | None = None,
        rescale_PO2: np.ndarray | None = None,
    ) -> ImageBank:
        """Numpy arrays as a bank; what is left out: all O exist, no padding, unknown spacing, physical = stored."""
        prompts, originals, rows, columns, _ = pixels_POYXC.shape
        lead = (prompts, originals, 1)
        size = np.tile(np.array([rows, columns], np.int32), lead) if size_PO2 is None else size_PO2
        spacing = np.zeros((prompts, originals, 2), np.float32) if spacing_PO2 is None else spacing_PO2
        rescale = np.tile(np.array([1, 0], np.float32), lead) if rescale_PO2 is None else rescale_PO2
        count = np.full(prompts, originals, np.int32) if count_P is None else count_P
        return cls(pixels_POYXC, window_PO2, count, size, spacing, rescale)


@struct.dataclass
class Question:
    """What the policy and the tools may see of a batch of questions. No answer lives here (promise 4).

    Attributes:
      tokens_PS: int32 prompt tokens, chat template applied, padded.
      valid_PS: bool.
      feature_PS: int32, ``image * L + k`` where the slot holds the k-th embedding of an original; -1 for text.
      bank: the original images.
      max_turns_P, max_calls_P, max_images_P: int32 budgets: turns, tool calls, images that tools return.
      turn_tokens_PR: int32, the most that each turn may sample, at least 1 and no more than the environment's capacity;
        None is the capacity everywhere.
    """

    tokens_PS: Array
    valid_PS: Array
    feature_PS: Array
    bank: ImageBank
    max_turns_P: Array
    max_calls_P: Array
    max_images_P: Array
    turn_tokens_PR: Array | None = None


@struct.dataclass
class AnswerKey:
    """The truth about a batch of questions. Only rewards and evaluation hold it.

    Attributes:
      answer_PN: uint8, normalised answer bytes, zero-padded (see ``text.normalise``).
      target_P4: float32, x1 y1 x2 y2 in 0…1000 of the place that decides; all zero where there is none.
      family_P: int32 index of the question family.
    """

    answer_PN: Array
    target_P4: Array
    family_P: Array


@struct.dataclass
class Turns:
    """What happened in each turn. Capacity R; slots past ``Trajectory.turns_B`` are empty."""

    kind_BR: Array  # int32 Kind
    fault_BR: Array  # int32 Fault, after the environment has had its say
    tool_BR: Array  # int32, -1 none
    arguments_BRA: Array  # int32
    well_formed_BR: Array  # bool
    length_BR: Array  # int32 sampled tokens


@struct.dataclass
class Trajectory:
    """One episode a row: exactly the sampled ids and what the environment put between them (promise 1).

    Attributes:
      tokens_BS: int32 ids of prompt, turns and observations in the order the model read them.
      valid_BS: bool; slots that are no part of the row's sequence are False and nobody attends to them.
      sampled_BS: bool, True for ids the policy chose: the only ones that carry loss.
      feature_BS: int32, ``image_slot * L + k`` for image embeddings, -1 for text.
      positions_BSZ: int32 rotary positions.
      turn_BS: int32 turn index of sampled ids, -1 elsewhere.
      logprobs_BS: float32 behaviour log-probability of sampled ids at the sampling temperature, 0 elsewhere.
      allowed_BS: int32, from which set of tokens an id was drawn (``set_RW`` of the environment's constraint); -1 where
        all were allowed.
      features_BILE: image features of every image slot, for reuse where the vision tower is frozen.
      views: recipe of every image slot.
      turns: what happened turn by turn.
      turns_B: int32 number of turns taken.
      calls_B: int32 number of tool calls attempted.
      answer_BN, answer_length_B: bytes of the answer; length 0 when none was given or it was too long to keep.
      truncated_B: bool, the episode ended without an answer.
    """

    tokens_BS: Array
    valid_BS: Array
    sampled_BS: Array
    feature_BS: Array
    positions_BSZ: Array
    turn_BS: Array
    logprobs_BS: Array
    allowed_BS: Array
    features_BILE: Array
    views: Views
    turns: Turns
    turns_B: Array
    calls_B: Array
    answer_BN: Array
    answer_length_B: Array
    truncated_B: Array
