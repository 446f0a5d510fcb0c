"""Controls of the full policy: crops at random and at the right place, tools that miss, looks where none is needed.

    python experiments/table_controls.py --packaged                     # medvista-tiny on the atlas, real images
    python experiments/table_controls.py --packaged --preset short      # every line, a few steps each: a smoke test
    python experiments/table_controls.py --packaged --results experiments/RESULTS.md

Stopped by Ctrl-C or SIGTERM, the same command goes on. Writes OUT/table_controls.md, .tex and .json.
"""

from __future__ import annotations

import dataclasses
import sys

from table_cells import Cell
from table_run import NEED_COLUMNS, Runs, TableOptions, by_need, protocol_of, run_table

from medvista_jax.core.dimensions import FRAME
from medvista_jax.data.canvas import CANVAS
from medvista_jax.evaluation.cells import calls_per_question, shift
from medvista_jax.evaluation.paper_tables import NONE, Line, PaperTable
from medvista_jax.evaluation.setting import VariedSetting
from medvista_jax.tools.noise import Noise


@dataclasses.dataclass(frozen=True)
class Controls(TableOptions):
    """Every knob.

    Attributes:
      spreads: noisy tools: standard deviation of the displacement on each axis, in pixels of the 256-pixel canvas.
      wrong: noisy tools: share of calls that are carried out anywhere.
    """

    spreads: tuple[float, ...] = (8.0, 16.0, 32.0)
    wrong: tuple[float, ...] = (0.25, 0.5)

    def shortened(self) -> Controls:
        return dataclasses.replace(super().shortened(), spreads=self.spreads[:1], wrong=self.wrong[:1])

    def noises(self) -> dict[str, Noise]:
        """By the name of the line."""
        near = {f"noisy tools, SD {spread:g} px": Noise(spread=spread * FRAME / CANVAS) for spread in self.spreads}
        far = {f"noisy tools, {100 * share:g} % of calls anywhere": Noise(wrong=share) for share in self.wrong}
        return near | far


LOOKS = {"random crop": "random", "oracle crop": "oracle", "a random crop for every item": "forced"}


def plan(options: Controls) -> dict[str, list[Cell]]:
    """The cells of every line, and those of the base that over-tooling is measured on."""
    full = options.reinforced
    cells = {
        "base": options.each_seed(lambda seed: options.cell(options.base(seed), False)),
        "full": options.each_seed(lambda seed: options.cell(full(seed))),
        "tools off": options.each_seed(lambda seed: options.cell(full(seed), False)),
    }
    for name, look in LOOKS.items():
        cells[name] = options.each_seed(lambda seed, look=look: options.cell(full(seed), look=look))
    for name, noise in options.noises().items():
        setting = VariedSetting(**dataclasses.asdict(options.setting), noise=noise)
        cells[name] = options.each_seed(lambda seed, setting=setting: options.cell(full(seed), setting=setting))
    return cells


def compose(options: Controls, runs: Runs) -> PaperTable:
    """A line a control."""
    lines = []
    for name, mine in runs.items():
        if name == "base":
            continue
        moved = shift(mine, runs["base"])
        columns = by_need(mine, () if name == "full" else runs["full"])
        columns |= {
            "calls, none": f"{calls_per_question([run.group('needs', 'none') for run in mine]):.2f}",
            "calls, base right": f"{moved.calls / moved.right:.2f}" if moved.right else NONE,
            "lost": _share(moved.lost, moved.right),
            "won": _share(moved.won, moved.wrong),
        }
        lines.append(Line((name,), columns))
    return PaperTable(
        name="table_controls",
        title="Controls: random and oracle crops, noisy tools, over-tooling",
        stubs=("control",),
        columns=(*NEED_COLUMNS, "Δ all", "calls", "calls, none", "calls, base right", "lost", "won"),
        lines=tuple(lines),
        protocol=protocol_of(
            options,
            "Δ all: difference to full over all items, in percentage points, with its 95 % interval.",
            "Over-tooling: 'calls, none': calls on an item that needs none; 'calls, base right': on an item that base "
            "gets right without tools; 'lost': share of these that are wrong now; 'won': share of those that base gets "
            "wrong that are right now.",
            "Crops are played for the policy of full, which then answers; when it looks again it is refused and may "
            "still answer. Random and oracle crops are played only where an item needs a look, as many as it needs.",
            f"Noisy tools displace the boxes of calls, also of those that the policy was trained to make, by SD px on "
            f"each axis of the {CANVAS}-pixel canvas, or carry a share of them out anywhere. The policy is not told.",
        ),
        tools="on, but in the line that says off",
        base="full",
    )


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} ({part}/{whole})" if whole else NONE


if __name__ == "__main__":
    sys.exit(run_table(Controls, __doc__, plan, compose))
