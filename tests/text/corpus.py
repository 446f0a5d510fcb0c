"""A corpus for the tiny tokenizer: scripted turns, prompts and observations around the tools' own specs.

python -m medvista_jax.text.corpus --out corpus.txt
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from medvista_jax.core.tool_spec import Argument, ToolSpec
from medvista_jax.text.chat import ERRORS, tool_line

_MODALITIES = ("MR brain", "CT", "chest film", "limb film", "fundus", "histology", "fluorescence")
_STRUCTURES = (
    "hippocampus",
    "thalamus",
    "putamen",
    "caudate",
    "amygdala",
    "cerebellum",
    "ventricle",
    "nucleus",
)
_SHAPES = ("stripes across", "stripes down", "a ring", "a cross", "a disc", "a square")
_QUESTIONS = (
    "Which plane is this {m} image? A axial B coronal C sagittal",
    "Which side is marked? A left B right",
    "Is the {s} visible? A yes B no",
    "Which structure lies at the marker? A {s} B {s2} C {s3} D {s4}",
    "What is the shape of the target? A {h} B {h2} C {h3} D {h4}",
    "How many nuclei are in the marked box?",
    "Which of the two marked regions is brighter? A first B second",
    "Which of the two marked regions is larger? A first B second",
    "Is there a low-contrast lesion in this {m} image? A yes B no",
)
_THOUGHTS = (
    "The target is too small, zoom in.",
    "Look closer at the {s}.",
    "The mark is near the {p}.",
    "That was the wrong place, try the {p}.",
    "The window is too wide, change it.",
    "Now it can be seen: {h}.",
    "It can be seen without a tool.",
    "No tool is needed.",
    "The {s} is visible.",
)
_PLACES = ("top left", "top right", "bottom left", "bottom right", "middle", "left", "right")
_ANSWERS = ("A", "B", "C", "D", "yes", "no", "3", "7", "12", "left", "right", "axial", "coronal", "sagittal")


def _value(argument: Argument, rng: random.Random) -> int | str | list[int]:
    if argument.kind == "boolean":
        return rng.random() < 0.5
    if argument.kind == "string":
        return rng.choice(_STRUCTURES)[: argument.maximum]
    if argument.kind == "point":
        return [rng.randint(argument.minimum, argument.maximum) for _ in range(2)]
    if argument.kind == "enum":
        return rng.choice(argument.choices)
    if argument.kind == "box":
        xs, ys = (sorted(rng.sample(range(argument.minimum, argument.maximum + 1), 2)) for _ in range(2))
        return [xs[0], ys[0], xs[1], ys[1]]
    return rng.randint(argument.minimum, argument.maximum)


def _fill(text: str, rng: random.Random) -> str:
    structures, shapes = rng.sample(_STRUCTURES, 4), rng.sample(_SHAPES, 4)
    return text.format(
        m=rng.choice(_MODALITIES),
        p=rng.choice(_PLACES),
        **{name: value for name, value in zip(("s", "s2", "s3", "s4"), structures, strict=True)},
        **{name: value for name, value in zip(("h", "h2", "h3", "h4"), shapes, strict=True)},
    )


def build_corpus(
    specs: Sequence[ToolSpec], questions: Sequence[str] = (), documents: int = 2000, seed: int = 0
) -> list[str]:
    """Documents of one line each: prompts, turns with calls or answers, and observations.

    Args:
      specs: tools whose calls occur, all equally often.
      questions: real question texts; a stock of stand-ins where there are none.
      documents: how many.
      seed: the same seed gives the same documents.
    """
    rng = random.Random(seed)
    lines = []
    for _ in range(documents):
        question = rng.choice(questions) if questions else _fill(rng.choice(_QUESTIONS), rng)
        parts = [f"<|im_start|>system<|im_end|><|im_start|>user{question}<|im_end|><|im_start|>assistant"]
        if rng.random() < 0.1:
            parts.append(tool_line(specs if rng.random() < 0.7 else ()))
        for _ in range(rng.randint(0, 2)):
            spec = rng.choice(specs)
            values = {a.name: _value(a, rng) for a in spec.arguments if a.default is None or rng.random() < 0.5}
            call = json.dumps({"name": spec.name, "arguments": values})
            parts.append(f"<think>{_fill(rng.choice(_THOUGHTS), rng)}</think><tool_call>{call}</tool_call>")
            reply = rng.choice(tuple(ERRORS.values())) if rng.random() < 0.2 else f"image {rng.randint(0, 9)}"
            parts.append(f"<tool_response>{reply}</tool_response>")
        parts.append(f"<think>{_fill(rng.choice(_THOUGHTS), rng)}</think><answer>{rng.choice(_ANSWERS)}</answer>")
        lines.append("".join(parts).replace("\n", " "))
    return lines
