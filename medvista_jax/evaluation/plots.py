"""``curves.png``: what happened in each stage of training, drawn from the metrics file."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Record = dict[str, Any]

COLOURS = ("#2563a8", "#d9730d", "#2e8b57", "#8e44ad", "#b03a5b", "#607080")


@dataclasses.dataclass(frozen=True)
class Panel:
    """One axes.

    Attributes:
      stage: which records.
      title, unit: what is drawn and the label of the vertical axis.
      names: metrics, a line each; one that ends in ``*`` stands for every metric that begins so. A panel
        without any metric in the records is left out.
      fraction: show 0…1 as a full scale in percent.
      log: logarithmic scale.
      zero: the scale starts at zero.
      band: shade between NAME_low and NAME_high of each line that has them, such as an interval.
    """

    stage: str
    title: str
    unit: str
    names: tuple[str, ...]
    fraction: bool = False
    log: bool = False
    zero: bool = False
    band: bool = False


PANELS = (
    Panel("perception", "Perception: loss", "loss (nats)", ("loss", "concept_loss", "place_loss", "name_loss")),
    Panel(
        "perception",
        "Perception: accuracy",
        "percent",
        ("accuracy", "accuracy_heavy_coarse", "accuracy_heavy_fine", "names_right", "targets_seen"),
        fraction=True,
    ),
    Panel("sft", "SFT: loss and entropy", "nats a token", ("loss", "entropy"), log=True),
    Panel("grpo", "GRPO: reward and its terms", "reward", ("reward", "reward_*")),
    Panel("grpo", "GRPO: accuracy (sampled)", "percent", ("accuracy",), fraction=True),
    Panel("grpo", "GRPO: tool calls", "calls a question", ("calls_per_question",), zero=True),
    Panel("grpo", "GRPO: faults of turns, episodes cut", "share", ("faults", "truncated"), zero=True),
    Panel("grpo", "GRPO: entropy", "nats a token", ("entropy",), zero=True),
    Panel(
        "grpo",
        "GRPO: rollout against loss",
        "largest |Δ log-probability|",
        ("logprob_mismatch*",),
        log=True,
    ),
    Panel("grpo", "GRPO: loss", "loss", ("loss", "clip_fraction")),
    Panel("grpo", "GRPO: gradient norm", "norm", ("grad_norm",), log=True),
)
"""The panels in order, and with them the metric names that training writes."""


def draw_curves(records: Sequence[Record], path: str | Path, panels: Sequence[Panel] = PANELS) -> int:
    """Draws the panels that have data into one PNG.

    Args:
      records: of ``metrics.jsonl`` (:func:`medvista_jax.runtime.metrics.read_metrics`): ``stage``, ``step``
        and numbers. Several records of a step (seeds) are averaged. Values that are no finite number leave a
        gap.
      path: the PNG; its folder is made.
      panels: what to draw.

    Returns:
      How many panels were drawn; an image that says "no records" is written when there are none.
    """
    drawn = [(panel, lines) for panel in panels if (lines := _lines(records, panel))]
    columns = min(3, max(1, len(drawn)))
    rows = max(1, math.ceil(len(drawn) / columns))
    figure = Figure(figsize=(4.4 * columns, 2.9 * rows), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # no pyplot: no window system, no global figure list
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (panel, lines) in zip(axes, drawn, strict=False):
        _draw(ax, panel, lines)
        if panel.band:
            _shade(ax, panel, records, tuple(lines))
    for ax in axes[len(drawn) :]:
        ax.axis("off")
    if not drawn:
        axes[0].text(0.5, 0.5, "no records", ha="center", va="center")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return len(drawn)


def _lines(records: Sequence[Record], panel: Panel) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    mine = [record for record in records if record.get("stage") == panel.stage]
    found = dict.fromkeys(itertools.chain.from_iterable(mine))
    names: dict[str, None] = {}
    for wanted in panel.names:
        if wanted.endswith("*"):
            names.update(dict.fromkeys(name for name in found if name.startswith(wanted[:-1])))
        elif wanted in found:
            names[wanted] = None
    lines = {}
    for name in names:
        steps: dict[int, list[float]] = {}
        for record in mine:
            value = record.get(name)
            if isinstance(value, int | float):
                steps.setdefault(record["step"], []).append(float(value))
        if steps:
            x = np.array(sorted(steps))
            lines[name] = x, np.array([np.mean(steps[step]) for step in x])
    return lines


def _draw(ax: Any, panel: Panel, lines: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for k, (name, (x, y)) in enumerate(lines.items()):
        y = np.where(np.isfinite(y), y, np.nan) * (100 if panel.fraction else 1)
        if panel.log:
            y = np.where(y > 0, y, np.nan)
        colour = COLOURS[k % len(COLOURS)]
        style = "-" if k < len(COLOURS) else "--"
        label = name.replace("_", " ")
        if len(x) < 40:
            ax.plot(x, y, style, color=colour, linewidth=1.6, label=label, marker="." if len(x) < 15 else None)
        else:
            # The raw values stay visible behind the mean, so that the smoothing hides no spike.
            ax.plot(x, y, style, color=colour, linewidth=0.7, alpha=0.25)
            ax.plot(x, _smooth(y, max(3, len(x) // 25)), style, color=colour, linewidth=1.8, label=label)
    ax.set_title(panel.title, fontsize=10.5, fontweight="bold", loc="left")
    ax.set_xlabel("step", fontsize=9)
    ax.set_ylabel(panel.unit, fontsize=9)
    ax.tick_params(which="both", labelsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    if panel.fraction:
        ax.set_ylim(-3, 103)
    if panel.zero:
        ax.set_ylim(bottom=0)
    if panel.log and any(np.any(y > 0) for _, y in lines.values()):
        ax.set_yscale("log")
    if len(lines) > 1:
        ax.legend(fontsize=7.5, frameon=True, framealpha=0.8, edgecolor="none", ncols=2 if len(lines) > 4 else 1)


def _shade(ax: Any, panel: Panel, records: Sequence[Record], names: Sequence[str]) -> None:
    """The bands of a panel's lines, in the lines' colours."""
    for k, name in enumerate(names):
        edges = _lines(records, dataclasses.replace(panel, names=(f"{name}_low", f"{name}_high")))
        if len(edges) == 2:
            (x, low), (_, high) = edges.values()
            scale = 100 if panel.fraction else 1
            ax.fill_between(x, low * scale, high * scale, color=COLOURS[k % len(COLOURS)], alpha=0.15, linewidth=0)


def _smooth(y: np.ndarray, width: int) -> np.ndarray:
    """Centred mean of ``width`` values, of fewer at the ends; not-a-number counts as absent."""
    kernel = np.ones(width)
    known = np.isfinite(y)
    total = np.convolve(np.where(known, y, 0), kernel, "same")
    count = np.convolve(known.astype(float), kernel, "same")
    return np.where(known, total / np.maximum(count, 1), np.nan)
