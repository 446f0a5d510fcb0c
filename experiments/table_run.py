"""What the ``table_*.py`` share: knobs, the line of trainings, columns, and the way from cells to files."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import tyro
from recipe import GRPOStage, PerceptionStage, SFTStage, with_steps
from table_cells import Cell, Training, Workshop

from medvista_jax.data.atlas import FAMILIES
from medvista_jax.data.sources import MissingSource
from medvista_jax.data.teachers import TeacherConfig
from medvista_jax.evaluation.cells import Outcomes, calls_per_question, difference
from medvista_jax.evaluation.paper_tables import (
    PaperTable,
    Value,
    gain_text,
    markdown,
    value_of,
    write_paper_table,
    write_section,
)
from medvista_jax.evaluation.setting import Setting
from medvista_jax.evaluation.tables import NEEDS, Protocol
from medvista_jax.runtime.checkpoints import CheckpointError
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.stages import Interrupted, NotFinite

Runs = Mapping[str, list[Outcomes]]
"""Outcomes of a line's seeds, by the line's name."""


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """Knobs of every table. What was trained or played before under OUT is used again, so that a run that was stopped
    goes on with the same command, and tables share what they have in common.

    Attributes:
      packaged: `medvista-tiny` on the packaged atlas.
      preset: `short` runs a few steps, and the first lines only of a table with many trainings: a smoke test. Numbers
        given beside it are overruled by it.
      out: folder of trainings, cells and tables.
      seeds: how many, from 0 up.
      results: page whose section of this table is written anew, such as experiments/RESULTS.md.
      split: of the items.
      per_family: items of each of the atlas' families.
      at_once: items that are played at a time.
      train_items: questions of the training split.
      eyes_seed: of the perception stage, whose frozen eyes all seeds share.
    """

    packaged: bool = False
    preset: Literal["full", "short"] = "full"
    out: Path = Path("runs/tables")
    seeds: int = 3
    results: Path | None = None
    split: Literal["test", "validation"] = "test"
    per_family: int = 60
    at_once: int = 240
    train_items: int = 6144
    eyes_seed: int = 0
    setting: Setting = Setting()
    teacher: TeacherConfig = TeacherConfig()
    perception: PerceptionStage = PerceptionStage()
    sft: SFTStage = SFTStage()
    grpo: GRPOStage = GRPOStage()

    def shortened(self) -> Any:
        """The same table from a few steps and items; a table with many trainings leaves lines out."""
        # One bucket: a third of the branches to compile.
        static = dataclasses.replace(self.sft.static, buckets=())
        algorithm = dataclasses.replace(self.grpo.algorithm, buckets=())
        return dataclasses.replace(
            self,
            seeds=1,
            per_family=3,
            at_once=36,
            train_items=240,
            perception=with_steps(self.perception, 4),
            sft=dataclasses.replace(with_steps(self.sft, 4), batch=16, direct_steps=4, static=static),
            grpo=dataclasses.replace(with_steps(self.grpo, 2), prompts=4, algorithm=algorithm),
        )

    # The line of trainings that the tables vary.

    def eyes(self) -> Training:
        """The frozen encoder."""
        return Training("eyes", self.setting, self.perception, self.eyes_seed, self.train_items)

    def base(self, seed: int) -> Training:
        """SFT on direct answers: what stands in for a base model, which knows how to answer and no tool."""
        return Training("direct", self.setting, self.sft, seed, self.train_items, self.eyes(), self.teacher)

    def taught(self, seed: int) -> Training:
        """SFT on the teacher's trajectories."""
        return Training("sft", self.setting, self.sft, seed, self.train_items, self.eyes(), self.teacher)

    def reinforced(self, seed: int, parent: Training | None = None, tools: bool = True) -> Training:
        """GRPO, after SFT unless another parent is named."""
        parent = self.taught(seed) if parent is None else parent
        return Training("rl", self.setting, self.grpo, seed, self.train_items, parent, None, tools)

    def cell(
        self, training: Training, tools: bool = True, look: str = "policy", setting: Setting | None = None
    ) -> Cell:
        """A training on the held-out items."""
        return Cell(training, setting or self.setting, self.split, self.per_family, tools, look)

    def each_seed(self, make: Callable[[int], Cell]) -> list[Cell]:
        """A line's cells."""
        return [make(seed) for seed in range(self.seeds)]


NEED_COLUMNS = (*(need for need in NEEDS if any(f.needs == need for f in FAMILIES.values())), "all")


def by_need(runs: Sequence[Outcomes], base: Sequence[Outcomes] = ()) -> dict[str, Value | str | None]:
    """Columns of :data:`NEED_COLUMNS`; with a base also ``Δ``, and ``calls`` in any case."""
    columns: dict[str, Value | str | None] = {}
    for need in NEED_COLUMNS:
        mine, theirs = ([run.group("needs", need) for run in side] for side in (runs, base))
        columns[need] = value_of(mine, theirs)
    if base:
        columns["Δ all"] = gain_text(difference(runs, base))
    columns["calls"] = f"{calls_per_question(runs):.2f}"
    return columns


def protocol_of(options: TableOptions, *notes: str) -> Protocol:
    """Of the packaged setting."""
    shares = "every family of the atlas has the same number of items, so that 'all' is the mean over families"
    chance = 100 * sum(family.chance for family in FAMILIES.values()) / len(FAMILIES)
    eyes = "base: SFT on direct answers, the stand-in for a model that knows no tool; all seeds share one set of eyes"
    return Protocol(
        dataset="packaged atlas (targets of implant_* and same_shape and lesions of lesion_ct are implanted)",
        split=f"{options.split}, other brain template and other image regions than training",
        scorer="normalised exact match",
        decoding="greedy",
        machine=machine(),
        notes=(
            f"Model medvista-tiny; {shares}; a guess gets {chance:.1f} % of all, 25 % where needs = zoom; {eyes}.",
            f"Steps: perception {options.perception.optimizer.steps}, direct answers {options.sft.direct_steps}, SFT "
            f"{options.sft.optimizer.steps}, GRPO {options.grpo.optimizer.steps} of {options.grpo.prompts} prompts × "
            f"{options.grpo.algorithm.group} episodes.",
            *notes,
        ),
    )


def machine() -> str:
    """What the numbers were computed on."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} × {devices[0].device_kind}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


def commit() -> str:
    """Of the checkout, with a word on changes; ``unknown`` outside of one."""

    def git(*arguments: str) -> str:
        folder = Path(__file__).resolve().parent
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def facts(options: TableOptions, table: PaperTable) -> dict[str, str]:
    """What a results page says of a run beside its numbers."""
    script = Path(sys.argv[0])
    seeds = sorted({seed for value in table.values() for seed in value.estimate.seeds})
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "command": " ".join(["python", f"experiments/{script.name}", *sys.argv[1:]]),
        **({"preset": options.preset} if options.packaged else {}),
        "seeds": ", ".join(map(str, seeds)),
        "machine": machine(),
        "jax": f"{jax.__version__} on {jax.devices()[0].platform}",
    }


def compute(options: TableOptions, plan: Mapping[str, list[Cell]]) -> Runs:
    """The outcomes of all lines; what is there is not computed again."""
    with Interrupts() as interrupts, Progress() as progress:
        workshop = Workshop(options.out, options.at_once, progress, interrupts)
        found = workshop.outcomes(cell for cells in plan.values() for cell in cells)
    return {name: [found[cell.identity] for cell in cells] for name, cells in plan.items()}


def write(options: TableOptions, table: PaperTable) -> None:
    """Files, the section of the results page, and a print."""
    about = facts(options, table)
    paths = write_paper_table(options.out, table, about)
    if options.results is not None:
        write_section(options.results, table, about)
        paths.append(options.results)
    print(f"{table.title}\n\n{markdown(table)}\nWritten: {', '.join(map(str, paths))}")


def run_table(
    kind: type[TableOptions],
    description: str | None,
    plan: Callable[[Any], Mapping[str, list[Cell]]],
    compose: Callable[[Any, Runs], PaperTable],
    hub: Callable[[Any], PaperTable] | None = None,
) -> int:
    """A table's ``main``. Returns the exit status: 130 and 143 after a stop, from which the same command goes on.

    Args:
      plan: the cells of every line, by name.
      compose: the table of what came out.
      hub: the table without ``--packaged``.
    """
    options = tyro.cli(kind, description=description)
    name = Path(sys.argv[0]).stem
    try:
        if options.seeds < 1 or options.per_family < 1:
            raise ValueError(f"--seeds {options.seeds} and --per-family {options.per_family} must be at least 1")
        if options.packaged:
            options = options.shortened() if options.preset == "short" else options
            enable_compile_cache()
            write(options, compose(options, compute(options, plan(options))))
        elif hub is not None:
            write(options, hub(options))
        else:
            raise ValueError("it trains the packaged model only; add --packaged. table_main.py takes hub weights")
    except Interrupted as stop:
        print(f"\n{stop.args[0]}. Go on with:  python {' '.join(sys.argv)}", file=sys.stderr)
        return stop.exit_code
    except (CheckpointError, MissingSource, NotFinite, ValueError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0
