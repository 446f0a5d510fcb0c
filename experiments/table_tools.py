"""Leave one tool family out: SFT and RL with all tools but those of a family.

    python experiments/table_tools.py --packaged                        # medvista-tiny on the atlas, real images
    python experiments/table_tools.py --packaged --preset short         # every line, a few steps each: a smoke test
    python experiments/table_tools.py --packaged --results experiments/RESULTS.md

Stopped by Ctrl-C or SIGTERM, the same command goes on. Writes OUT/table_tools.md, .tex and .json.
"""

from __future__ import annotations

import dataclasses
import sys

from recipe import GRPOStage, SFTStage
from table_cells import Cell
from table_run import NEED_COLUMNS, Runs, TableOptions, by_need, protocol_of, run_table

from medvista_jax.evaluation.paper_tables import Line, PaperTable
from medvista_jax.evaluation.setting import Setting, VariedSetting
from medvista_jax.learning.accumulate import Bucket
from medvista_jax.learning.grpo import GRPOConfig
from medvista_jax.learning.sft import SFTConfig
from medvista_jax.tools.registry import ALL_TOOLS

TAUGHT = ("zoom_in", "pan_compare", "adjust_window", "region_statistics", "count_objects")
"""Tools that the teacher calls; no trajectory of SFT would show another."""

ROOM = (Bucket(104, 1), Bucket(184, 2), Bucket(272, 3))
"""Prompts and calls are longer than with the two tools of the quickstart."""


@dataclasses.dataclass(frozen=True)
class Tools(TableOptions):
    """Every knob.

    Attributes:
      tools: to leave families out of.
    """

    seeds: int = 1
    tools: tuple[str, ...] = TAUGHT
    setting: Setting = Setting(turn_tokens=72, prompt_slots=96)
    sft: SFTStage = SFTStage(static=SFTConfig(buckets=ROOM))
    grpo: GRPOStage = GRPOStage(algorithm=GRPOConfig(buckets=ROOM))

    def __post_init__(self) -> None:
        if unknown := [name for name in self.tools if name not in ALL_TOOLS]:
            raise ValueError(f"no tool {', '.join(unknown)}; there are {', '.join(ALL_TOOLS)}")
        if len(self.families()) < 2:
            raise ValueError("--tools must be of two families at least: nothing would be left without one")

    def shortened(self) -> Tools:
        return dataclasses.replace(super().shortened(), tools=("zoom_in", "adjust_window"))

    def families(self) -> list[str]:
        """In the order of the tools."""
        return list(dict.fromkeys(ALL_TOOLS[name].spec.family for name in self.tools))

    def without(self, family: str = "") -> Tools:
        """The same, trained and played without a family's tools."""
        names = tuple(name for name in self.tools if ALL_TOOLS[name].spec.family != family)
        return dataclasses.replace(self, setting=VariedSetting(**_capacities(self.setting), tool_names=names))


def _capacities(setting: Setting) -> dict[str, int]:
    return {field.name: getattr(setting, field.name) for field in dataclasses.fields(Setting)}


def plan(options: Tools) -> dict[str, list[Cell]]:
    """The cells of every line: without a family from SFT on, and without it in the evaluation only."""
    whole = options.without()
    cells = {"all": whole.each_seed(lambda seed: whole.cell(whole.reinforced(seed)))}
    for family in options.families():
        less = options.without(family)
        cells[f"without {family}"] = less.each_seed(lambda seed, less=less: less.cell(less.reinforced(seed)))
        cells[f"without {family}, at test only"] = whole.each_seed(
            lambda seed, less=less: whole.cell(whole.reinforced(seed), setting=less.setting)
        )
    return cells


def compose(options: Tools, runs: Runs) -> PaperTable:
    """A line a family."""
    lines = [Line((name,), by_need(mine, () if name == "all" else runs["all"])) for name, mine in runs.items()]
    named = "; ".join(
        f"{family}: {', '.join(name for name in options.tools if ALL_TOOLS[name].spec.family == family)}"
        for family in options.families()
    )
    return PaperTable(
        name="table_tools",
        title="Tools: one family left out",
        stubs=("tools",),
        columns=(*NEED_COLUMNS, "Δ all", "calls"),
        lines=tuple(lines),
        protocol=protocol_of(
            options,
            f"All tools: {named}.",
            "Δ all: difference to all tools over all items, in percentage points, with its 95 % interval. 'without': "
            "trained and evaluated without the family, the teacher doing without it too; 'at test only': the policy of "
            "all tools, whose prompts no longer offer it.",
        ),
        tools="on, those of the line",
        base="all",
    )


if __name__ == "__main__":
    sys.exit(run_table(Tools, __doc__, plan, compose))
