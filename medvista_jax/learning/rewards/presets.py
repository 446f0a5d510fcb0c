"""Published rewards as pure functions of a trajectory, for the device.

Each takes ``(trajectory, key, accuracy_B=None)`` and its constants by name, under ``jax.jit`` or outside of it::

    terms = PRESETS["deepeyes"](trajectory, key)
    PRESETS["gentle"] = functools.partial(deepeyes, tool=0.4)

``accuracy_B`` is float32 ``[B]``, whether the answer is right as judged elsewhere, such as by a language model
(:mod:`medvista_jax.learning.rewards.judge`); without it the answer must equal the key after normalisation. What else
the device cannot know comes as ``outside``, a dict of float32 ``[B]``; a preset that needs some says so under "Needs"
and raises ``ValueError`` with the missing name.

Where a paper reads tags from text, the device reads the turns as they were parsed: ``well formed`` is a thought and
then exactly one call or answer. The formulas are those of :mod:`medvista_jax.learning.rewards.formulas`, which the
readers of text in :mod:`medvista_jax.learning.rewards.transcripts` share.
"""

from __future__ import annotations

import jax.numpy as jnp

from medvista_jax.core.types import AnswerKey, Array, Kind, Trajectory
from medvista_jax.learning.rewards import formulas
from medvista_jax.learning.rewards.crops import places
from medvista_jax.learning.rewards.numbers import number_of, numbers_of_key
from medvista_jax.learning.rewards.registry import Outside, accuracy, lost_answer, needed, preset, used, yes
from medvista_jax.learning.rewards.terms import (
    RewardTerms,
    adjacent_repeats,
    answered,
    faulty_calls,
    repetition,
    taken,
    tool_images,
    turn_format,
    turns_well_formed,
    valid_calls,
    well_formed,
)


@preset
def vista_r1(trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None = None) -> RewardTerms:
    """VISTA-R1, the template of MedVistaGym.

    Formula: R_rep in {-3, -2, -1.5, 0}; if 0, plus R_format = ±1; if +1, plus acc
    Range: -3 … 2
    Source: arXiv 2511.19773; it names the levels of repetition, the thresholds are ours (``REPETITION_LEVELS``)
    """
    repetition_B = repetition(trajectory)
    format_B = jnp.where(well_formed(trajectory), 1.0, -1.0)
    correct_B = accuracy(trajectory, key, accuracy_B)
    reached_B = repetition_B == 0.0
    total_B = repetition_B + jnp.where(reached_B, format_B + jnp.where(format_B > 0, correct_B, 0.0), 0.0)
    terms = {"repetition": repetition_B, "format": format_B, "correct": correct_B}
    return RewardTerms(total_B=total_B, correct_B=correct_B, terms=terms)


def _deepeyes_signals(
    trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None, longest: int
) -> tuple[Array, Array, Array]:
    """acc, fmt and images as DeepEyes sees them: an answer that is too long is wrong and an error of format."""
    lost_B = lost_answer(trajectory, longest)
    acc_B = jnp.where(lost_B, 0.0, accuracy(trajectory, key, accuracy_B))
    fmt_B = jnp.where(turns_well_formed(trajectory) & ~lost_B, 0.0, -1.0)
    return acc_B, fmt_B, yes(tool_images(trajectory) > 0)


@preset
def deepeyes(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    accuracy_weight: float = 0.8,
    format_weight: float = 0.2,
    tool_weight: float = 1.2,
    longest: int = 1000,
) -> RewardTerms:
    """DeepEyes: a bonus for a right answer after a tool's image.

    Formula: 0.8 acc + 0.2 fmt + 1.2 [images > 0 and acc > 0.5]; fmt 0 or -1
    Range: -0.2 … 2
    Needs: acc is a language model's in the paper
    Source: Visual-Agent/DeepEyes@6c5e796:verl/utils/reward_score/vl_agent.py

    Args:
      longest: bytes from which on an answer is taken for an attack on the judge.
    """
    acc_B, fmt_B, image_B = _deepeyes_signals(trajectory, key, accuracy_B, longest)
    total_B = formulas.deepeyes(acc_B, fmt_B, image_B, accuracy_weight, format_weight, tool_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B, "tool_image": image_B})


@preset
def deepeyes_additive_tool(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    accuracy_weight: float = 0.8,
    format_weight: float = 0.2,
    tool_weight: float = 0.4,
    longest: int = 1000,
) -> RewardTerms:
    """DeepEyes' first attempt: the tool is paid for, right or wrong.

    Formula: 0.8 acc + 0.2 fmt + 0.4 [images > 0]; fmt 0 or -1
    Range: -0.2 … 1.2
    Needs: acc is a language model's in the paper
    Source: as deepeyes, "reward 1" in a comment
    """
    acc_B, fmt_B, image_B = _deepeyes_signals(trajectory, key, accuracy_B, longest)
    total_B = formulas.deepeyes_additive_tool(acc_B, fmt_B, image_B, accuracy_weight, format_weight, tool_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B, "tool_image": image_B})


@preset
def deepeyes_multiplicative(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    format_weight: float = 0.2,
    tool_weight: float = 1.2,
    longest: int = 1000,
) -> RewardTerms:
    """DeepEyes' third attempt: without a tool's image a right answer is worth nothing.

    Formula: acc · 1.2 [images > 0] + 0.2 fmt; fmt 0 or -1
    Range: -0.2 … 1.2
    Needs: acc is a language model's in the paper
    Source: as deepeyes, "reward 3" in a comment
    """
    acc_B, fmt_B, image_B = _deepeyes_signals(trajectory, key, accuracy_B, longest)
    total_B = formulas.deepeyes_multiplicative(acc_B, fmt_B, image_B, format_weight, tool_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B, "tool_image": image_B})


@preset
def deepeyes_math(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    accuracy_weight: float = 1.2,
    format_weight: float = 0.4,
) -> RewardTerms:
    """DeepEyes on mathematics.

    Formula: 1.2 acc + 0.4 fmt; fmt 0, or -1 also where no answer was given
    Range: -0.4 … 1.2
    Needs: acc is math_verify's, then a language model's, in the paper
    Source: Visual-Agent/DeepEyes@6c5e796:verl/utils/reward_score/vl_agent.py:compute_score_math
    """
    given_B = answered(trajectory)
    acc_B = jnp.where(given_B, accuracy(trajectory, key, accuracy_B), 0.0)
    fmt_B = jnp.where(turns_well_formed(trajectory) & given_B, 0.0, -1.0)
    total_B = formulas.weighted(acc_B, fmt_B, accuracy_weight, format_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B})


def _deepeyes_v2_signals(
    trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None, longest: int
) -> tuple[Array, Array]:
    """acc and fmt as DeepEyesV2 sees them; a missing answer is still judged, one that is too long is not."""
    acc_B = jnp.where(lost_answer(trajectory, longest), 0.0, accuracy(trajectory, key, accuracy_B))
    return acc_B, yes(turns_well_formed(trajectory) & answered(trajectory, longest))


@preset
def deepeyes_v2(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    accuracy_weight: float = 0.8,
    format_weight: float = 0.2,
    longest: int = 300,
) -> RewardTerms:
    """DeepEyesV2: no bonus for tools.

    Formula: 0.8 acc + 0.2 fmt; fmt 0 or 1; an answer of 300 or more makes both 0
    Range: 0 … 1
    Needs: acc is a language model's in the paper
    Source: Visual-Agent/DeepEyesV2@0373e6e:reinforcement_learning/verl/utils/reward_score/deepeyesv2.py
    """
    acc_B, fmt_B = _deepeyes_v2_signals(trajectory, key, accuracy_B, longest)
    total_B = formulas.weighted(acc_B, fmt_B, accuracy_weight, format_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B})


@preset
def deepeyes_v2_search(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    accuracy_weight: float = 0.8,
    format_weight: float = 0.2,
    penalty: float = 0.1,
    longest: int = 300,
    search_tools: tuple[int, ...] | None = None,
) -> RewardTerms:
    """DeepEyesV2 on search: a tenth of the accuracy is the price of searching.

    Formula: 0.8 acc (1 - 0.1 [searched]) + 0.2 fmt; fmt 0 or 1
    Range: 0 … 1
    Needs: acc is a language model's in the paper
    Source: as deepeyes_v2, compute_score_search

    Args:
      search_tools: indices of the tools that are a search; None: every call is one, as upstream, where images are
        handled by code and only searches are tool calls.
    """
    acc_B, fmt_B = _deepeyes_v2_signals(trajectory, key, accuracy_B, longest)
    search_BR = (trajectory.turns.kind_BR == Kind.CALL) & taken(trajectory)
    if search_tools is not None:
        search_BR &= jnp.isin(trajectory.turns.tool_BR, jnp.array(search_tools, jnp.int32))
    searched_B = yes(jnp.any(search_BR, axis=1))
    total_B = formulas.deepeyes_v2_search(acc_B, fmt_B, searched_B, accuracy_weight, format_weight, penalty)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B, "searched": searched_B})


@preset
def mini_o3(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    penalty: float = 0.0,
    accuracy_weight: float = 1.0,
    format_weight: float = 0.0,
    tool_weight: float = 0.0,
) -> RewardTerms:
    """Mini-o3: accuracy alone, and rows that ran out of turns carry no loss.

    Formula: (1 - p [used]) w_acc acc + w_fmt fmt + w_tool [used]; in the paper p 0, w_acc 1, w_fmt 0, w_tool 0 (the
      code's defaults: p 0.1, w_fmt 1); a row without an answer gets 0 and ``include_B`` False
    Range: 0 … 1
    Needs: acc is a language model's in the paper
    Source: Mini-o3/Mini-o3@8654dbf:verl/utils/reward_score/general_qa_tool.py; arXiv 2509.07969
    """
    acc_B = jnp.where(trajectory.truncated_B, 0.0, accuracy(trajectory, key, accuracy_B))
    fmt_B, used_B = yes(well_formed(trajectory)), used(trajectory)
    paid_B = formulas.mini_o3(acc_B, fmt_B, used_B, penalty, accuracy_weight, format_weight, tool_weight)
    total_B = jnp.where(trajectory.truncated_B, 0.0, paid_B)
    terms = {"correct": acc_B, "format": fmt_B, "used": used_B}
    return RewardTerms(total_B, acc_B, terms, include_B=~trajectory.truncated_B)


@preset
def vtool_r1(trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None = None) -> RewardTerms:
    """VTool-R1: what the judge says of a given answer, and nothing else.

    Formula: acc
    Range: 0 … 1
    Needs: acc is a language model's in the paper
    Source: VTool-R1/VTool-R1@5318fb2:examples/reward_function/refocus_llm.py
    """
    acc_B = jnp.where(answered(trajectory), accuracy(trajectory, key, accuracy_B), 0.0)
    return RewardTerms(acc_B, acc_B, {"correct": acc_B})


@preset
def vtool_r1_string(trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None = None) -> RewardTerms:
    """VTool-R1 without a judge: numbers are right by degrees.

    Formula: 1 - |a - b| / max(|a|, |b|) for two numbers, else [equal]; for several golds the sum over the given
      answers of the best, divided by the golds (there, ``accuracy_B`` from text)
    Range: -1 … 1 on the device (numbers of different sign fall below 0)
    Source: VTool-R1/VTool-R1@5318fb2:examples/reward_function/refocus.py
    """
    correct_B = accuracy(trajectory, key, accuracy_B)
    if accuracy_B is not None:
        return RewardTerms(correct_B, correct_B, {"correct": correct_B})
    said_B, is_said_B = number_of(trajectory.answer_BN, trajectory.answer_length_B)
    gold_B, is_gold_B = numbers_of_key(key, trajectory.answer_BN.shape[0])
    like_B = jnp.where(is_said_B & is_gold_B, formulas.similarity(said_B, gold_B), correct_B)
    return RewardTerms(like_B, correct_B, {"correct": correct_B, "similarity": like_B})


@preset
def openthinkimg(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    format_weight: float = 0.0,
) -> RewardTerms:
    """OpenThinkIMG (V-ToolRL).

    Formula: acc + w · mean over turns of [well formed]; w 0 by default, 1 with the format reward on
    Range: 0 … 1 + w
    Source: zhaochen0110/OpenThinkIMG@45d295f:r1_v/open_r1/tool_grpo.py
    """
    acc_B, fmt_B = accuracy(trajectory, key, accuracy_B), turn_format(trajectory)
    total_B = formulas.weighted(acc_B, fmt_B, 1.0, format_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B})


@preset
def chain_of_focus(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    accuracy_weight: float = 0.9,
    format_weight: float = 0.1,
) -> RewardTerms:
    """Chain-of-Focus.

    Formula: 0.9 acc + 0.1 fmt; fmt 0 or 1
    Range: 0 … 1
    Needs: acc is a language model's in the paper
    Source: xtong-zhang/Chain-of-Focus@431ff0d:verl/recipe/zoomin/zoomin_reward3.py
    """
    acc_B, fmt_B = accuracy(trajectory, key, accuracy_B), yes(well_formed(trajectory))
    total_B = formulas.weighted(acc_B, fmt_B, accuracy_weight, format_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B})


@preset
def vigorl_multiturn(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    accuracy_weight: float = 0.6,
    format_weight: float = 0.4,
    bonus: float = 0.2,
    apart: float = 10.0,
) -> RewardTerms:
    """ViGoRL: looking at several places is part of the format.

    Formula: 0.6 acc + 0.4 F; F 0 where the grammar fails, else 1 + 0.2 max(u - 1, 0), u the places looked at that lie
      at least 10 px from all counted before
    Range: 0 … 1 and 0.08 more for each further place
    Source: Gabesarch/grounded-rl@e7970c0:src/trainer/rl/examples/reward_function/string_match_multiturn.py

    A place is the middle of a crop, in pixels of the first original.
    """
    acc_B, seen_B = accuracy(trajectory, key, accuracy_B), places(trajectory, apart)
    valid_B = yes(well_formed(trajectory) & answered(trajectory))
    total_B = formulas.vigorl_multiturn(acc_B, valid_B, seen_B, accuracy_weight, format_weight, bonus)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": valid_B, "places": yes(seen_B)})


@preset
def grit(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    outside: Outside | None = None,
    bleu_weight: float = 0.1,
) -> RewardTerms:
    """GRIT: a judge's score and five cheap parts.

    Formula: gpt + 0.1 bleu1 + answer format (0 … 0.5) + thoughts (0 … 0.5) + ground (0.5 for a crop, 1 more where
      their number is right) + non-repetition (0 … 0.5)
    Range: 0 … 4.1
    Needs: outside["bleu1"], 0 … 1 (not with ``bleu_weight=0``); outside["count_matches"], 0 or 1, on counting questions
      only; gpt, a language model's score 0 … 1, is ``accuracy_B``
    Source: eric-ai-lab/GRIT@44699c9:grpo-gr/rewards.py

    GRIT counts coordinates that are written into a thought; on the device a valid tool call stands for that, and the
    share of well-formed turns for its tags of thought and second thought.
    """
    gpt_B = jnp.where(answered(trajectory), accuracy(trajectory, key, accuracy_B), 0.0)
    (bleu_B,) = needed("grit", outside, "bleu1") if bleu_weight else [jnp.zeros_like(gpt_B)]
    matches_B = jnp.asarray((outside or {}).get("count_matches", jnp.zeros_like(gpt_B)), jnp.float32)
    parts = {
        "answer_format": 0.5 * yes(answered(trajectory)),
        "thought": 0.5 * turn_format(trajectory),
        "ground": 0.5 * yes(valid_calls(trajectory) > 0) + matches_B,
        "non_repetition": 0.5 * (1.0 - adjacent_repeats(trajectory)),
    }
    total_B = formulas.grit(gpt_B, bleu_B, sum(parts.values()), bleu_weight)
    return RewardTerms(total_B, gpt_B, {"correct": gpt_B, "bleu1": bleu_B} | parts)


@preset
def visualtoolagent(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    outside: Outside | None = None,
    harm: float = -0.5,
) -> RewardTerms:
    """VisTA: what the chosen tools do to a frozen model.

    Formula: (right without tools, right with them): 11 -> 1, 10 -> -0.5, 01 -> 1, 00 -> 0
    Range: -0.5 … 1
    Needs: outside["correct_without_tools"]; right with tools is ``accuracy_B``, or the policy's own answer
    Source: OoDBag/VisTA@80a01c8:vista/src/r1-v/src/open_r1/grpo.py:510-522
    """
    (without_B,) = needed("visualtoolagent", outside, "correct_without_tools")
    with_B = accuracy(trajectory, key, accuracy_B)
    total_B = formulas.visualtoolagent(without_B, with_B, harm)
    return RewardTerms(total_B, with_B, {"correct": with_B, "correct_without_tools": without_B})


@preset
def visionary_r1(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    outside: Outside | None = None,
    caption_weight: float = 0.1,
) -> RewardTerms:
    """Visionary-R1: a caption that alone suffices to answer is paid for.

    Formula: acc + fmt + 0.1 caption; fmt 0 or 1
    Range: 0 … 2.1
    Needs: outside["caption"], 0 … 1, whether the model answers right from its caption alone
    Source: maifoundations/Visionary-R1:src/open_r1/grpo_vllm_caption.py
    """
    (caption_B,) = needed("visionary_r1", outside, "caption")
    acc_B, fmt_B = accuracy(trajectory, key, accuracy_B), yes(well_formed(trajectory))
    total_B = formulas.visionary_r1(acc_B, fmt_B, caption_B, caption_weight)
    return RewardTerms(total_B, acc_B, {"correct": acc_B, "format": fmt_B, "caption": caption_B})


@preset
def med_r1(trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None = None) -> RewardTerms:
    """Med-R1.

    Formula: acc + fmt; fmt 0 or 1
    Range: 0 … 2
    Source: Yuxiang-Lai117/Med-R1@88d76c7:src/r1-v/src/open_r1/grpo_vqa.py
    """
    acc_B, fmt_B = accuracy(trajectory, key, accuracy_B), yes(well_formed(trajectory))
    return RewardTerms(formulas.weighted(acc_B, fmt_B, 1.0, 1.0), acc_B, {"correct": acc_B, "format": fmt_B})


@preset
def medvlthinker(trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None = None) -> RewardTerms:
    """MedVLThinker: a right answer in the right format, or nothing.

    Formula: fmt · acc; fmt 0 or 1
    Range: 0 … 1
    Source: UCSC-VLAA/MedVLThinker:train/my_reward.py
    """
    acc_B, fmt_B = accuracy(trajectory, key, accuracy_B), yes(well_formed(trajectory))
    return RewardTerms(formulas.medvlthinker(acc_B, fmt_B), acc_B, {"correct": acc_B, "format": fmt_B})


@preset
def ophiuchus(
    trajectory: Trajectory,
    key: AnswerKey,
    accuracy_B: Array | None = None,
    *,
    outside: Outside | None = None,
    tool_weight: float = 2.0,
) -> RewardTerms:
    """Ophiuchus: multiple choice, or segmentation by intersection over union.

    Formula: S_fmt + S_ans + 2 [S_ans > 0 and a tool call was carried out]; S_ans is acc, or of IoU 3 above 0.8, 2 above
      0.7, 1 above 0.5, else 0
    Range: 0 … 4, or 0 … 6 for segmentation
    Needs: outside["iou"] for segmentation only
    Source: SII-zyj/Ophiuchus@2560233:agent_system/environments/env_package/medical_agent/envs.py
    """
    iou_B = (outside or {}).get("iou")
    acc_B = accuracy(trajectory, key, accuracy_B)
    answer_B = acc_B if iou_B is None else formulas.ophiuchus_segmentation(jnp.asarray(iou_B, jnp.float32))
    fmt_B, used_B = yes(well_formed(trajectory)), yes(valid_calls(trajectory) > 0)
    total_B = formulas.ophiuchus(answer_B, fmt_B, used_B, tool_weight)
    correct_B = acc_B if iou_B is None else yes(answer_B > 0)
    return RewardTerms(total_B, correct_B, {"answer": answer_B, "format": fmt_B, "used": used_B})


@preset
def verl_zoom_tool(
    trajectory: Trajectory, key: AnswerKey, accuracy_B: Array | None = None, *, penalty: float = 0.05
) -> RewardTerms:
    """verl's zoom tool: the steps' rewards alone, to be added to a reward of the answer.

    Formula: -0.05 for each call that was answered by an error
    Range: -0.05 · turns … 0
    Source: volcengine/verl:verl/tools/image_zoom_in_tool.py
    """
    faults_B = yes(faulty_calls(trajectory))
    return RewardTerms(
        formulas.verl_zoom_tool(faults_B, penalty), accuracy(trajectory, key, accuracy_B), {"faults": faults_B}
    )
