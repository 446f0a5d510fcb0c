"""Trajectories as cards of the report."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.dimensions import FRAME
from medvista_jax.core.types import Fault, Kind, Question, Trajectory
from medvista_jax.environment.gym import Environment, render_views
from medvista_jax.evaluation.report import ReportCard, ReportImage, ReportTurn
from medvista_jax.learning.rewards import RewardTerms
from medvista_jax.tools.geometry import outline


def make_cards(
    environment: Environment,
    tokenizer,
    items: Sequence,
    question: Question,
    trajectory: Trajectory,
    terms: RewardTerms,
    condition: str,
) -> list[ReportCard]:
    """One card a row, for the first ``len(items)`` rows of a batch played with group 1."""
    slots = trajectory.views.view.blend.shape[1]
    rows = trajectory.turns_B.shape[0]
    render = jax.jit(render_views)
    pixels_IBhwC = [
        np.asarray(render(environment, question.bank, trajectory.views, jnp.full((rows,), slot, jnp.int32)))
        for slot in range(slots)
    ]
    host: Trajectory = jax.tree.map(np.asarray, trajectory)
    sizes_PO2 = np.asarray(question.bank.size_PO2)
    scores = jax.tree.map(np.asarray, terms)
    cards = []
    for row, item in enumerate(items):
        answer = bytes(host.answer_BN[row, : host.answer_length_B[row]]).decode("utf-8", "replace")
        cards.append(
            ReportCard(
                id=item.id,
                family=item.family,
                needs=item.needs,
                condition=condition,
                question=item.question,
                answer=answer if host.answer_length_B[row] else "(none)",
                truth=item.answer,
                correct=bool(scores.correct_B[row] > 0),
                images=tuple(_images(environment, item, host, row, pixels_IBhwC, sizes_PO2[row, 0])),
                turns=tuple(_turns(environment, tokenizer, host, row)),
                rewards={name: float(term_B[row]) for name, term_B in scores.terms.items()}
                | {"total": float(scores.total_B[row])},
            )
        )
    return cards


def display(pixels_YXC: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """uint8 ``[Y, X]`` or ``[Y, X, 3]`` as shown at a window, in full size."""
    low, high = window
    shown = np.round(np.clip((pixels_YXC.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def _images(environment: Environment, item, host: Trajectory, row: int, pixels_IBhwC, size_2: np.ndarray):
    """The original at full size with every box drawn on it, then each view as the model read it."""
    boxes = [(*map(float, target), "truth", "truth") for target in item.targets]
    calls = _view_calls(environment, host, row)
    view = host.views.view
    for slot, name in calls:
        if name in ("zoom_in", "look") and view.source[row, slot, 0] == 0:
            corners = outline(view.affine[row, slot, 0], size_2) * FRAME
            boxes.append((*map(float, corners), f"image {slot}", "call"))
    yield ReportImage("original", display(item.pixels, item.window), tuple(boxes))
    for slot, name in calls:
        low, high = view.window[row, slot, 0]
        caption = name + (f", window {low:.0f} to {high:.0f}" if name == "adjust_window" else "")
        shown = pixels_IBhwC[slot][row]
        yield ReportImage(caption, shown[..., 0] if shown.shape[-1] == 1 else shown)


def _view_calls(environment: Environment, host: Trajectory, row: int) -> list[tuple[int, str]]:
    """Image slot and tool of every call that gave a view, in order."""
    shows = np.asarray(environment.image_J)
    tools = [
        int(host.turns.tool_BR[row, turn])
        for turn in range(int(host.turns_B[row]))
        if host.turns.kind_BR[row, turn] == Kind.CALL and host.turns.fault_BR[row, turn] == Fault.NONE
    ]
    names = [environment.tools[tool].spec.name for tool in tools if shows[tool]]
    first = int(host.views.count_B[row]) - len(names)
    return [(first + order, name) for order, name in enumerate(names)]


def _turns(environment: Environment, tokenizer, host: Trajectory, row: int):
    """Text of each turn and of the observation that followed it."""
    valid, turn_S = host.valid_BS[row], host.turn_BS[row]
    ids = host.tokens_BS[row]
    for turn in range(int(host.turns_B[row])):
        spoken = np.flatnonzero(turn_S == turn)
        heard: list[int] = []
        if len(spoken):
            later = np.flatnonzero(turn_S == turn + 1)
            end = later[0] if len(later) else len(ids)
            between = np.arange(spoken[-1] + 1, end)
            heard = [int(ids[s]) for s in between if valid[s] and host.feature_BS[row, s] < 0]
        fault = Fault(int(host.turns.fault_BR[row, turn]))
        tool = int(host.turns.tool_BR[row, turn])
        yield ReportTurn(
            text=tokenizer.decode([int(ids[s]) for s in spoken]),
            kind=Kind(int(host.turns.kind_BR[row, turn])).name.lower(),
            fault=None if fault == Fault.NONE else fault.name,
            observation=_inside_response(tokenizer.decode(heard)),
            tool=environment.tools[tool].spec.name if tool >= 0 else None,
        )


def _inside_response(text: str) -> str:
    """What stands between the ``<tool_response>`` tags."""
    text = text.split("<tool_response>")[-1].split("</tool_response>")[0]
    return text.replace("<|vision_start|>", "").replace("<|vision_end|>", "").strip() if text else ""
