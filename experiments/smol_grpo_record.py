"""What ``smol_grpo.py`` says of itself in ``run.json``, for the model card of an export."""

from __future__ import annotations

import sys

from smol_grpo_setting import SmolGRPO

from medvista_jax.data.sources import notices
from medvista_jax.data.spots import FAMILY
from medvista_jax.evaluation.run_record import PolicyRecord, RunRecord, StageRecord, command_of, plain
from medvista_jax.evaluation.tables import Protocol

SUMMARY = (
    "SmolLM2-135M-Instruct reads images through DINOv2 ViT-S/14 and a connector that was aligned on the packaged "
    "atlas (`experiments/smol_align.py`); SFT and GRPO then taught it to look twice: a tool enlarges one of five "
    "bright spots, and the model answers how the stripes in it run."
)
IMPLANTED = (
    f"The targets of `{FAMILY}` are drawn into real MR slices by the program. They are no findings of anybody, and "
    "what the model learns about them says nothing about disease."
)


def record_of(config: SmolGRPO, protocol: Protocol) -> RunRecord:
    """The settings and the protocol of the table as a record of the run."""
    words, sft, grpo, teacher = config.words, config.sft, config.grpo, config.teacher
    stages = (
        StageRecord(
            "words",
            "The connector learns to name the stripes of an enlarged target; all else is frozen.",
            words.optimizer.steps,
            plain(words),
        ),
        StageRecord(
            "sft",
            f"LoRA and connector learn the teacher's trajectories ({teacher.direct:.0%} answered without a look, "
            f"{teacher.stray:.0%} of the looks at a wrong spot).",
            sft.optimizer.steps,
            plain({"sft": sft, "teacher": teacher, "lora": config.lora}),
        ),
        StageRecord(
            "grpo",
            f"LoRA learns from its own episodes: GRPO, {grpo.prompts} questions x {grpo.group} episodes a step.",
            grpo.optimizer.steps,
            plain({"grpo": grpo, "lora": config.lora}),
        ),
    )
    short = ("A few steps of every stage were run, as a smoke test: nothing was learnt.",)
    return RunRecord(
        experiment="experiments/smol_grpo.py",
        title="medvista-smol",
        summary=SUMMARY,
        command=command_of("smol_grpo.py", sys.argv[1:]),
        family="medvista_smol",
        settings=plain(config) | {"out": None, "model": None},
        stages=stages,
        policies={
            "sft_grpo": PolicyRecord(
                "adapters", base="model", stages=("words", "sft", "grpo"), conditions=("sft_grpo",)
            )
        },
        protocol=protocol,
        data=notices(),
        implanted=IMPLANTED,
        limits=(
            *(short if config.preset == "short" else ()),
            "One question form and one tool are known: the direction of implanted stripes, and `look`.",
            "Training and test images are two population averages of brains, split by template: the numbers are of the "
            "method and say nothing about patients.",
        ),
        seeds=(config.seed,),
        base_models=("HuggingFaceTB/SmolLM2-135M-Instruct", "facebook/dinov2-small"),
        licence="apache-2.0",
    )
