"""What ``quickstart.py`` says of itself in ``run.json``, for the model card of an export."""

from __future__ import annotations

import sys
from typing import Any

from medvista_jax.data.sources import notices
from medvista_jax.evaluation.run_record import PolicyRecord, RunRecord, StageRecord, command_of, plain
from medvista_jax.evaluation.tables import Protocol

SUMMARY = (
    "A small vision language model that thinks with images: it reasons, calls image tools (zoom, intensity window, "
    "measurements), sees what they return, and answers. It knows the questions of the packaged atlas and nothing else. "
    "It was trained from random weights within minutes to show a method, after MedVistaGym (arXiv 2601.07107)."
)
IMPLANTED = (
    "The targets of the question families `implant_shape`, `implant_stripes` and `same_shape` and the lesions of "
    "`lesion_ct` are drawn into real images by the program. They are no findings of anybody, and what a model learns "
    "about them says nothing about disease."
)


def record_of(config: Any, protocol: Protocol) -> RunRecord:
    """A ``Quickstart`` and the protocol of its table as a record of the run."""
    sft, grpo = config.sft, config.grpo
    teacher = config.teacher
    taught = (
        f"Connector and decoder learn scripted trajectories of an imperfect teacher (box noise {teacher.noise:g} px, "
        f"shift {teacher.shift:g} px of 256, {teacher.direct:.0%} answered without a look)."
    )
    stages = (
        StageRecord(
            "perception",
            "The image encoder learns dense labels of the training images, then stays frozen.",
            config.perception.optimizer.steps,
            plain(config.perception),
        ),
        StageRecord(
            "no_tools", "Connector and decoder learn direct answers; no tool is offered.", sft.direct_steps, plain(sft)
        ),
        StageRecord("sft", taught, sft.optimizer.steps, plain({"sft": sft, "teacher": teacher})),
        StageRecord(
            "grpo",
            f"The decoder learns from its own episodes: GRPO, groups of {grpo.algorithm.group}, reward "
            f"`{grpo.algorithm.reward}`.",
            grpo.optimizer.steps,
            plain(grpo),
        ),
    )
    short = ("A few steps of every stage were run, as a smoke test: the weights know nothing.",)
    return RunRecord(
        experiment="experiments/quickstart.py",
        title="medvista-tiny",
        summary=SUMMARY,
        command=command_of("quickstart.py", sys.argv[1:]),
        family="medvista_tiny",
        settings=plain(config) | {"out": None},
        stages=stages,
        policies={
            "no_tools": _policy("no_tools", "perception", "no_tools", conditions=("no_tools", "tools_offered")),
            "sft": _policy("sft", "perception", "sft", conditions=("sft",)),
            "grpo": _policy("grpo", "perception", "sft", "grpo", conditions=("sft_grpo",)),
        },
        protocol=protocol,
        data=notices(),
        implanted=IMPLANTED,
        limits=(
            *(short if config.preset == "short" else ()),
            "0.8 million parameters, one 64 × 64 thumbnail an image, a vocabulary of 768 pieces and fixed question "
            "forms: questions in other words are not understood.",
            "Training and test images are two population averages of brains and a handful of sample images, split by "
            "template and region: the numbers are of the method and say nothing about patients.",
            "Accuracy on questions that need no zoom is low with and without tools; see the columns of the table.",
        ),
        seeds=tuple(range(config.seeds)),
    )


def _policy(name: str, *stages: str, conditions: tuple[str, ...]) -> PolicyRecord:
    return PolicyRecord(f"seed_{{seed}}/policy/{name}.safetensors", stages=stages, conditions=conditions)
