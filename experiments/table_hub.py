"""The main table with models of the hub: every model on a protocol's benchmarks, without tools and with them.

The runner of :mod:`medvista_jax.evaluation.benchmark` asks and scores, a folder for each model with and without tools,
and goes on with the answers that are there; here its results become a table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvista_jax.evaluation.benchmark import __main__ as benchmark
from medvista_jax.evaluation.cells import Outcomes, calls_per_question
from medvista_jax.evaluation.paper_tables import NONE, Line, PaperTable, Published, value_of
from medvista_jax.evaluation.protocols import protocol_of
from medvista_jax.evaluation.tables import Protocol
from medvista_jax.runtime.stages import Interrupted


@dataclasses.dataclass(frozen=True)
class Hub:
    """Models of the hub.

    Attributes:
      protocol: which questions, in which words, scored by what; `python -m medvista_jax.evaluation.protocols --list`.
      sets: benchmarks; all of the protocol by default.
      data: folder of `python -m medvista_jax.data.benchmarks prepare`; where it puts them by default.
      subset: miniatures, prepared with --subset; no numbers to publish.
      tools: names with commas between.
      turns: of an episode with tools, the answer included.
      view: pixels a side of every image; the family's choice by default.
      max_new_tokens: of an episode; the protocol's by default.
      at_once: questions of a batch.
    """

    protocol: str = "medvlthinker"
    sets: tuple[str, ...] = ()
    data: Path | None = None
    subset: bool = False
    tools: str = "zoom_in,adjust_window"
    turns: int = 4
    view: int = 0
    max_new_tokens: int = 0
    at_once: int = 8


PUBLISHED = Published(
    "MedVistaGym-8B",
    "MedVistaGym (arXiv 2601.07107), with tools",
    "Its splits, prompts and scorer are not public; the scores are no whole number of right answers on any standard "
    "split tried.",
    {"slake": "81.36", "vqa_rad": "70.75", "path_vqa": "69", "pmc_vqa": "58", "mmmu_medical": "56.43"},
)


def named_folders(models: Sequence[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` texts.

    Raises:
      ValueError: there is none, one is no such text, or a folder is not there.
    """
    if not models:
        raise ValueError("name models, --models NAME=FOLDER …, or add --packaged for medvista-tiny on the atlas")
    found: dict[str, Path] = {}
    for text in models:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"--models {text!r} is not NAME=FOLDER")
        if name in found:
            raise ValueError(f"--models: two models are named {name}")
        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"--models {text}: {folder} is no model folder of the hub: it has no config.json")
        found[name] = Path(folder)
    return found


def folder_of(out: Path, name: str, model: Path, tools: bool, hub: Hub) -> Path:
    """Where a cell's answers are: named by all that decides them but the set."""
    plain = dataclasses.asdict(dataclasses.replace(hub, sets=(), at_once=0, tools=hub.tools if tools else ""))
    # Other weights in the same folder are another model.
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(model.glob("*.safetensors"))]
    about = json.dumps({"model": str(model.resolve()), "weights": files, **plain}, default=str, sort_keys=True)
    return out / "hub" / f"{name}-{'tools' if tools else 'none'}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"


def arguments_of(model: Path, folder: Path, tools: bool, hub: Hub, sets: Sequence[str]) -> list[str]:
    """The runner's command line."""
    arguments = ["--protocol", hub.protocol, "--model", str(model), "--out", str(folder), "--resume"]
    arguments += ["--sets", ",".join(sets), "--at-once", str(hub.at_once), "--view", str(hub.view)]
    arguments += ["--data", str(hub.data)] if hub.data else []
    arguments += ["--subset"] if hub.subset else []
    arguments += ["--max-new-tokens", str(hub.max_new_tokens)] if hub.max_new_tokens else []
    arguments += ["--tools", hub.tools, "--turns", str(hub.turns)] if tools else []
    return arguments


def run_hub(out: Path, models: Sequence[str], hub: Hub, note: Any) -> PaperTable:
    """All cells, and the table of them.

    Args:
      note: takes a line of progress.

    Raises:
      ValueError: a model is not there, or the runner could not go on (it has said why).
      Interrupted: asked to stop; what was answered is kept.
    """
    folders = named_folders(models)
    try:
        sets = hub.sets or tuple(protocol_of(hub.protocol).sets)
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    cells = [(name, tools) for name in folders for tools in (False, True)]
    places = {cell: folder_of(out, cell[0], folders[cell[0]], cell[1], hub) for cell in cells}
    for number, (name, tools) in enumerate(cells):
        folder = places[name, tools]
        missing = [one for one in sets if not (folder / f"{one}.result.json").exists()]
        there = f"{len(sets) - len(missing)} of {len(sets)} sets are there"
        note(f"cell {number + 1} of {len(cells)}, {name} {'with' if tools else 'without'} tools: {there}")
        if missing:
            _run(arguments_of(folders[name], folder, tools, hub, missing))
    return compose_hub({cell: read_cell(places[cell], sets) for cell in cells}, sets, hub)


def _run(arguments: list[str]) -> None:
    status = benchmark.main(arguments)
    if status in (130, 143):
        raise Interrupted("stopped in the evaluation; what was answered is kept", status)
    if status:
        command = f"python -m medvista_jax.evaluation.benchmark {' '.join(arguments)}"
        raise ValueError(f"the evaluation ended with status {status}: {command}")


def read_cell(folder: Path, sets: Sequence[str]) -> dict[str, tuple[Outcomes, dict[str, Any]]]:
    """Outcomes and results by set."""
    found = {}
    for name in sets:
        result = json.loads((folder / f"{name}.result.json").read_text(encoding="utf-8"))
        text = (folder / f"{name}.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        outcomes = Outcomes(
            items=np.array([line["id"] for line in lines]),
            groups={},
            correct=np.array([line["right"] for line in lines], bool),
            calls=np.array([line.get("calls", 0) for line in lines], np.int32),
            seed=int(result["seeds"][0]),
            seconds=0.0,
        )
        found[name] = outcomes, result
    return found


Cells = Mapping[tuple[str, bool], Mapping[str, tuple[Outcomes, dict[str, Any]]]]


def compose_hub(cells: Cells, sets: Sequence[str], hub: Hub) -> PaperTable:
    """A line a set, a column for each model with and without tools."""
    columns = {cell: f"{cell[0]}, {'on' if cell[1] else 'off'}" for cell in cells}
    first = next(iter(cells))
    lines = []
    for name in sets:
        base = [cells[first][name][0]]
        values = {
            columns[cell]: value_of([found[name][0]], () if cell == first else base) for cell, found in cells.items()
        }
        lines.append(Line((name, str(len(base[0].items))), values))
    means, calls = {}, {}
    for cell, found in cells.items():
        runs = [found[name][0] for name in sets]
        means[columns[cell]] = f"{100 * float(np.mean([run.correct.mean() for run in runs])):.1f}"
        calls[columns[cell]] = f"{calls_per_question(runs):.2f}"
    results = [cells[first][name][1] for name in sets]
    changed = [
        f"{key} is {change['here']}, the protocol's {change['protocol']}."
        for key, change in results[0].get("changed", {}).items()
    ]
    return PaperTable(
        name="table_main",
        title="Main table: benchmarks × models × tools on or off",
        stubs=("set", "n"),
        columns=tuple(columns.values()),
        lines=(*lines, Line(("mean of sets", NONE), means), Line(("calls a question", NONE), calls)),
        protocol=Protocol(
            dataset=", ".join(result["data_set"] for result in results),
            split="; ".join(f"{one['set']} {one['split']} ({one['subset']}, n {one['n']})" for one in results),
            scorer=" | ".join(dict.fromkeys(result["scorer"] for result in results)),
            decoding=f"temperature {results[0]['temperature']:g}",
            notes=(
                *dict.fromkeys(result["protocol_line"] for result in results),
                *changed,
                f"With tools: {hub.tools}, {hub.turns} turns at most.",
                *(["Miniatures of the benchmarks: no numbers to publish."] if hub.subset else []),
            ),
        ),
        tools="on or off as the column says",
        base=columns[first],
        items="as many items of a set as column n says, the same for all columns",
        published=(PUBLISHED,),
    )
