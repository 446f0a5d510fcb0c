"""A model's own answer to a question with options: the option that it finds likeliest. And the table of such probes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Params
from medvista_jax.evaluation.statistics import wilson_interval
from medvista_jax.models.vlm import Features, VisionLanguageModel, last_valid


@partial(jax.jit, static_argnames=("model",))
def option_scores(
    model: VisionLanguageModel,
    params: Params,
    tokens_BT: Array,
    feature_BT: Array,
    valid_BT: Array,
    features: Features,
    options_JC: Array,
) -> Array:
    """Log-likelihood of every option behind every prompt: float32 ``[B, J]``.

    The prompt is read once; each option then runs from its cache.

    Args:
      tokens_BT, feature_BT, valid_BT: prompts up to where the answer begins.
      features: leaves ``[B, I, L, …]``.
      options_JC: int32 ids of the options with what ends an answer, padded on the right with -1; none is empty.
    """
    rows, length = tokens_BT.shape
    cache = model.init_cache(rows, length + options_JC.shape[1])
    positions_BTZ, next_B = model.positions(jnp.zeros((rows,), jnp.int32), valid_BT, feature_BT)
    hidden_BTE, cache = model.forward(params, tokens_BT, feature_BT, features, positions_BTZ, valid_BT, cache, 0)
    first_BE = last_valid(hidden_BTE, valid_BT)

    def score(option_C: Array) -> Array:
        there_BC = jnp.tile((option_C >= 0)[None], (rows, 1))
        ids_BC = jnp.tile(jnp.maximum(option_C, 0)[None], (rows, 1))
        text_BC = jnp.full(ids_BC.shape, -1, jnp.int32)
        positions_BCZ, _ = model.positions(next_B, there_BC, text_BC)
        hidden_BCE, _ = model.forward(params, ids_BC, text_BC, features, positions_BCZ, there_BC, cache, length)
        before_BCE = jnp.concatenate([first_BE[:, None], hidden_BCE[:, :-1]], axis=1)
        logp_BCV = jax.nn.log_softmax(model.logits(params, before_BCE), axis=-1)
        logp_BC = jnp.take_along_axis(logp_BCV, ids_BC[..., None], axis=-1)[..., 0]
        return jnp.sum(jnp.where(there_BC, logp_BC, 0.0), axis=1)

    return jax.lax.map(score, options_JC).T


@dataclasses.dataclass(frozen=True)
class ProbeRow:
    """One number of the table.

    Attributes:
      condition: what answered.
      task: what was asked, a family of the atlas.
      correct, n: items.
      chance: accuracy of a guess.
      answers: how often each option was given: what a model that looks at nothing gives away.
    """

    condition: str
    task: str
    correct: int
    n: int
    chance: float
    answers: dict[str, int]

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.n)

    def text(self) -> str:
        """``94.1 (92.3–95.4)``, percent."""
        low, high = self.interval
        return f"{100 * self.correct / self.n:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def probe_row(
    condition: str, task: str, scores_NJ: np.ndarray, truth_N: np.ndarray, options: Sequence[str]
) -> ProbeRow:
    """Count the items whose true option (an index) is the likeliest."""
    given_N = np.asarray(scores_NJ).argmax(axis=1)
    counts = np.bincount(given_N, minlength=len(options))
    answers = {option: int(count) for option, count in zip(options, counts, strict=True)}
    return ProbeRow(condition, task, int((given_N == truth_N).sum()), len(given_N), 1 / len(options), answers)


def write_probe_tables(folder: Path, rows: Sequence[ProbeRow], protocol: Sequence[str]) -> str:
    """Writes ``table.md`` and ``table.json`` and returns the Markdown.

    Args:
      protocol: sentences below the table: data set, split, scorer, seeds, machine.
    """
    tasks, conditions = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("task", "condition"))
    cell = {(row.condition, row.task): row for row in rows}
    chance = {row.task: f"{100 * row.chance:.1f}" for row in rows}
    items = {row.task: str(row.n) for row in rows}
    lines = [["", *tasks]]
    lines += [[name, *(cell[name, task].text() for task in tasks)] for name in conditions]
    lines += [["chance", *(chance[task] for task in tasks)], ["items", *(items[task] for task in tasks)]]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    table = [
        "| "
        + " | ".join(
            text.rjust(w) if k else text.ljust(w) for k, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    ]
    table.insert(1, "| " + " | ".join("-" * (w - 1) + ":" if k else "-" * w for k, w in enumerate(widths)) + " |")
    text = "\n".join(table) + "\n\nAccuracy in percent (95 % Wilson interval). " + " ".join(protocol) + "\n"
    records: list[dict[str, Any]] = [
        dataclasses.asdict(row) | {"accuracy": row.correct / row.n, "ci95": list(row.interval)} for row in rows
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps({"rows": records, "protocol": list(protocol)}, indent=1) + "\n")
    (folder / "table.md").write_text(text, encoding="utf-8")
    return text
