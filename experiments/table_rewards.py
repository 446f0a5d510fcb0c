"""Reward designs: the same policy after SFT, trained with one reward preset each.

    python experiments/table_rewards.py --packaged                      # six presets, three seeds
    python experiments/table_rewards.py --packaged --rewards vista_r1 mini_o3 --seeds 1
    python experiments/table_rewards.py --packaged --preset short       # a few steps each: a smoke test
    python experiments/table_rewards.py --packaged --results experiments/RESULTS.md

``python -m medvista_jax.learning.rewards --list`` prints the presets. Stopped by Ctrl-C or SIGTERM, the same command
goes on. Writes OUT/table_rewards.md, .tex and .json.
"""

from __future__ import annotations

import dataclasses
import sys

from recipe import GRPOStage
from table_cells import Cell
from table_run import NEED_COLUMNS, Runs, TableOptions, by_need, protocol_of, run_table

from medvista_jax.evaluation.paper_tables import Line, PaperTable
from medvista_jax.learning.rewards import PRESETS
from medvista_jax.learning.state import OptimizerConfig

BEFORE = "SFT, before RL"


@dataclasses.dataclass(frozen=True)
class Rewards(TableOptions):
    """Every knob.

    Attributes:
      rewards: presets to compare.
    """

    rewards: tuple[str, ...] = ("vista_r1", "vtool_r1", "deepeyes", "deepeyes_v2", "pixel_reasoner", "medvr")
    grpo: GRPOStage = GRPOStage(optimizer=OptimizerConfig(learning_rate=1e-3, steps=60))

    def __post_init__(self) -> None:
        if unknown := [name for name in self.rewards if name not in PRESETS]:
            raise ValueError(f"no reward {', '.join(unknown)}; there are {', '.join(PRESETS)}")

    def shortened(self) -> Rewards:
        return dataclasses.replace(super().shortened(), rewards=self.rewards[:2])

    def rewarded(self, name: str) -> Rewards:
        """The same with this reward in RL."""
        algorithm = dataclasses.replace(self.grpo.algorithm, reward=name)
        return dataclasses.replace(self, grpo=dataclasses.replace(self.grpo, algorithm=algorithm))


def plan(options: Rewards) -> dict[str, list[Cell]]:
    """The cells of every line."""
    cells = {BEFORE: options.each_seed(lambda seed: options.cell(options.taught(seed)))}
    for name in options.rewards:
        mine = options.rewarded(name)
        cells[name] = options.each_seed(lambda seed, mine=mine: mine.cell(mine.reinforced(seed)))
    return cells


def compose(options: Rewards, runs: Runs) -> PaperTable:
    """A line a preset."""
    lines = []
    for name in (BEFORE, *options.rewards):
        seeds = [100 * float(run.correct.mean()) for run in runs[name]]
        columns = by_need(runs[name], () if name == BEFORE else runs[BEFORE])
        lines.append(Line((name,), columns | {"seeds": " ".join(f"{one:.1f}" for one in seeds)}))
    return PaperTable(
        name="table_rewards",
        title="Rewards: the same SFT policy, RL with one preset each",
        stubs=("reward",),
        columns=(*NEED_COLUMNS, "Δ all", "calls", "seeds"),
        lines=tuple(lines),
        protocol=protocol_of(
            options,
            f"Δ all: difference to '{BEFORE}' over all items, in percentage points, with its 95 % interval; seeds: all "
            "items, seed by seed. The RL of a seed starts from the SFT of the same seed.",
            "The rewards' formulas are as published, correctness by exact match where a paper asks a language model; "
            "steps, learning rate and advantages are the same for all, not each paper's own.",
        ),
        tools="on",
        base=BEFORE,
    )


if __name__ == "__main__":
    sys.exit(run_table(Rewards, __doc__, plan, compose))
