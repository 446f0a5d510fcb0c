"""What the peers set beside their rewards: data for an experiment to read, each value as published.

None means that the source at hand does not say. ``group`` is rollouts a prompt, ``prompts`` prompts a step.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of the optimiser and the rollout.

    Attributes:
      advantage: "grpo" (mean and deviation of the group) or "grpo_mean" (mean only).
      group: rollouts a prompt.
      prompts: prompts a step.
      mini_batch: prompts of one update within a step.
      learning_rate: of Adam.
      kl, entropy: coefficients in the loss.
      clip: how far the ratio may fall below and rise above 1.
      turns, eval_turns: in training, in evaluation.
      calls: tool calls an episode.
      prompt_tokens, response_tokens: limits.
      temperatures: of the first turn and of the later ones.
      drop_flat_groups: groups without any advantage are left out, or replaced.
      masks_over_turn: tokens of rows that ran out of turns carry no loss.
      masks_observations: tokens of the environment carry no loss.
      invalid_action_penalty: taken off for each turn that is no valid action.
      note: what does not fit above.
    """

    advantage: str = "grpo"
    group: int | None = None
    prompts: int | None = None
    mini_batch: int | None = None
    learning_rate: float | None = None
    kl: float | None = None
    entropy: float | None = None
    clip: tuple[float, float] | None = None
    turns: int | None = None
    eval_turns: int | None = None
    calls: int | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    temperatures: tuple[float, float] | None = None
    drop_flat_groups: bool | None = None
    masks_over_turn: bool | None = None
    masks_observations: bool | None = None
    invalid_action_penalty: float | None = None
    note: str = ""


RECIPES: dict[str, Recipe] = {
    "deepeyes": Recipe(
        group=16,
        prompts=256,
        learning_rate=1e-6,
        kl=0.0,
        entropy=0.0,
        turns=5,
        prompt_tokens=8192,
        response_tokens=20480,
        masks_observations=True,
        drop_flat_groups=False,
    ),
    "pixel_reasoner": Recipe(
        advantage="grpo_mean", calls=4, temperatures=(1.0, 0.9), drop_flat_groups=True, note="no division by deviation"
    ),
    "mini_o3": Recipe(
        group=16,
        prompts=256,
        mini_batch=32,
        clip=(0.2, 0.3),
        turns=6,
        eval_turns=12,
        masks_over_turn=True,
        drop_flat_groups=True,
        note="groups with a deviation below 1e-4 are dropped, looking at rows that did not run out of turns",
    ),
    "vtool_r1": Recipe(group=5, kl=0.01),
    "visionary_r1": Recipe(note="KL coefficient beta / 2 · (1 + cos(pi · share of the epoch))"),
    "medvlthinker": Recipe(group=8, prompts=256, learning_rate=1e-6, kl=0.01),
    "ophiuchus": Recipe(group=8, prompts=256, learning_rate=1e-6, kl=0.01, turns=6, invalid_action_penalty=0.1),
    "medvr": Recipe(
        group=16,
        note="half of the rollouts are forks of the other half, with P = P_base + 0.5 (H_tool - H_base); 32 H20; 36 "
        "thousand filtered questions of OmniMedVQA; Qwen2.5-VL-7B; zoom-in only; KL on",
    ),
}
"""By the name of the preset."""
