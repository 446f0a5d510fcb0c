"""What training does for tools: base, base + tools, SFT, RL without SFT, RL without tools, full (SFT + RL).

    python experiments/table_training.py --packaged                     # medvista-tiny on the atlas, real images
    python experiments/table_training.py --packaged --preset short      # every line, a few steps each: a smoke test
    python experiments/table_training.py --packaged --results experiments/RESULTS.md

Stopped by Ctrl-C or SIGTERM, the same command goes on. Writes OUT/table_training.md, .tex and .json.
"""

from __future__ import annotations

import dataclasses
import sys

from table_cells import Cell
from table_run import NEED_COLUMNS, Runs, TableOptions, by_need, protocol_of, run_table

from medvista_jax.evaluation.paper_tables import Line, PaperTable, Published


@dataclasses.dataclass(frozen=True)
class Training(TableOptions):
    """Every knob."""


TOOLS = {
    "base": "off",
    "base + tools": "on",
    "SFT": "on",
    "RL without SFT": "on",
    "RL without tools": "off",
    "full": "on",
}
"""Lines, and whether tools are offered in the evaluation."""

_VISTA_R1 = (
    "VISTA-R1 (arXiv 2511.19773), ablation of the training",
    "Mean of 11 benchmarks in percent; other data, tools and models; 'RL without tools': none in training and test.",
)
PUBLISHED = (
    Published(
        "Qwen2.5-VL-7B",
        *_VISTA_R1,
        {"base": "52.42", "SFT": "55.65", "RL without tools": "57.58", "full": "66.25"},
    ),
    Published(
        "InternVL3-2B",
        *_VISTA_R1,
        {"base": "39.86", "SFT": "43.28", "RL without tools": "51.45", "full": "63.27"},
    ),
)


def plan(options: Training) -> dict[str, list[Cell]]:
    """The cells of every line."""
    policies = {
        "base": options.base,
        "base + tools": options.base,
        "SFT": options.taught,
        "RL without SFT": lambda seed: options.reinforced(seed, options.base(seed)),
        "RL without tools": lambda seed: options.reinforced(seed, options.base(seed), tools=False),
        "full": options.reinforced,
    }
    return {
        name: options.each_seed(lambda seed, name=name: options.cell(policies[name](seed), TOOLS[name] == "on"))
        for name in TOOLS
    }


def compose(options: Training, runs: Runs) -> PaperTable:
    """A line a way of training."""
    lines = [
        Line((name, tools), by_need(runs[name], () if name == "base" else runs["base"]))
        for name, tools in TOOLS.items()
    ]
    return PaperTable(
        name="table_training",
        title="Training: base, base + tools, SFT, RL without SFT, RL without tools, full",
        stubs=("training", "tools"),
        columns=(*NEED_COLUMNS, "Δ all", "calls"),
        lines=tuple(lines),
        protocol=protocol_of(
            options,
            "Δ all: difference to base over all items, in percentage points, with its 95 % interval.",
            "RL without SFT and RL without tools start from base, full from SFT; all RL stages have the same steps.",
        ),
        tools="on or off as the line says, in RL's training and in the evaluation",
        base="base",
        published=PUBLISHED,
    )


if __name__ == "__main__":
    sys.exit(run_table(Training, __doc__, plan, compose))
