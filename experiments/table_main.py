"""The main table: question sets × models × tools on or off.

    python experiments/table_main.py --packaged                         # medvista-tiny on the atlas, real images
    python experiments/table_main.py --packaged --preset short          # every cell, a few steps each: a smoke test
    python experiments/table_main.py --packaged --results experiments/RESULTS.md
    python experiments/table_main.py --models small=FOLDER large=FOLDER # weights of the hub, the six benchmarks

Packaged, the sets are the families of the atlas and the models base, SFT and full (SFT + RL). The benchmarks are
prepared by ``python -m medvista_jax.data.benchmarks prepare``. Stopped by Ctrl-C or SIGTERM, the same command goes on.
Writes OUT/table_main.md, .tex and .json.
"""

from __future__ import annotations

import dataclasses
import sys

from table_cells import Cell
from table_hub import Hub, run_hub
from table_run import Runs, TableOptions, protocol_of, run_table

from medvista_jax.data.atlas import FAMILIES
from medvista_jax.evaluation.cells import calls_per_question
from medvista_jax.evaluation.paper_tables import Line, PaperTable, value_of


@dataclasses.dataclass(frozen=True)
class Main(TableOptions):
    """Every knob.

    Attributes:
      models: NAME=FOLDER of the hub, the first without tools is what differences are to.
      hub: what they are asked.
    """

    models: tuple[str, ...] = ()
    hub: Hub = Hub()


MODELS = ("base", "SFT", "full")
COLUMNS = {f"{model}, {'on' if tools else 'off'}": (model, tools) for model in MODELS for tools in (False, True)}
BASE = "base, off"


def plan(options: Main) -> dict[str, list[Cell]]:
    """The cells of every column."""
    make = {"base": options.base, "SFT": options.taught, "full": options.reinforced}
    return {
        name: options.each_seed(lambda seed, model=model, tools=tools: options.cell(make[model](seed), tools))
        for name, (model, tools) in COLUMNS.items()
    }


def compose(options: Main, runs: Runs) -> PaperTable:
    """A line a family."""
    lines = []
    for family, needs in [*((name, one.needs) for name, one in FAMILIES.items()), ("all", "")]:
        part = {name: [run.group("family", family) for run in mine] for name, mine in runs.items()}
        values = {name: value_of(mine, () if name == BASE else part[BASE]) for name, mine in part.items()}
        lines.append(Line((family, needs), values))
    calls = {name: f"{calls_per_question(mine):.2f}" for name, mine in runs.items()}
    return PaperTable(
        name="table_main",
        title="Main table: sets × models × tools on or off",
        stubs=("set", "needs"),
        columns=tuple(COLUMNS),
        lines=(*lines, Line(("calls a question", ""), calls)),
        protocol=protocol_of(options, "The sets are families of questions of the atlas, not published benchmarks."),
        tools="on or off as the column says",
        base=BASE,
        items=f"{options.per_family} items of every set, {options.per_family * len(FAMILIES)} a seed, the same for all "
        "columns",
    )


def with_hub(options: Main) -> PaperTable:
    """The table of models of the hub."""
    return run_hub(options.out, options.models, options.hub, lambda line: print(line, file=sys.stderr))


if __name__ == "__main__":
    sys.exit(run_table(Main, __doc__, plan, compose, with_hub))
