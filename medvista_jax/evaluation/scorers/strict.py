"""The strict scorers by name: upstream's code in other words, right or wrong."""

from __future__ import annotations

from collections.abc import Callable

from medvista_jax.evaluation.scorers import (
    lmms_slake,
    medevalkit,
    medevalkit_totals,
    medvlthinker,
    mmmu,
    vlmevalkit,
)
from medvista_jax.evaluation.scorers.base import Case, Result

Scorer = Callable[[Case], Result]

STRICT: dict[str, Scorer] = {
    "medevalkit.vqa_rad_pathvqa": medevalkit.vqa_rad_pathvqa,
    "medevalkit.calculate_f1": medevalkit.calculate_f1,
    "medevalkit.slake": medevalkit.slake,
    "medevalkit.multi_choice": medevalkit.multi_choice,
    "medevalkit.mmmu_parse_mc": mmmu.medevalkit_choice,
    "medevalkit.mmmu_open": mmmu.medevalkit_open,
    "medevalkit.aggregate": medevalkit_totals.aggregate,
    "lmms_eval.mmmu_parse_mc": mmmu.lmms_choice,
    "lmms_eval.mmmu_open_as_wired": mmmu.lmms_open,
    "lmms_eval.slake_normalize": lmms_slake.slake_normalize,
    "lmms_eval.slake_correct": lmms_slake.slake_correct,
    "vlmevalkit.can_infer": vlmevalkit.can_infer,
    "medvlthinker.reward": medvlthinker.reward,
    "medvlthinker.regrade": medvlthinker.regrade,
    "medvlthinker.eval_v2": medvlthinker.eval_v2,
}
