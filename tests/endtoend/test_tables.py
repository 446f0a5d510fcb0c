"""The tables of the paper, a few steps of every stage: cells are shared, kept, and go on after a stop."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from medvista_jax.evaluation.cells import Outcomes
from medvista_jax.evaluation.setting import Setting, load_policy
from medvista_jax.learning.state import start
from medvista_jax.runtime.interrupt import Interrupted, Interrupts
from medvista_jax.runtime.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("main", "training", "rewards", "tools", "controls", "scaling")


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(ROOT / "experiments"))
    yield
    sys.path.remove(str(ROOT / "experiments"))


def table(name):
    return importlib.import_module(f"table_{name}")


def full_size(name):
    """A table's own options."""
    module = table(name)
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    (kind,) = (value for value in own if isinstance(value, type) and dataclasses.is_dataclass(value))
    return kind(packaged=True)


def options(name, **changes):
    """A few steps of two turns, which compile faster than three."""
    short = dataclasses.replace(full_size(name), setting=Setting(turns=2)).shortened()
    return dataclasses.replace(short, **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder, options and outcomes of a finished training table, and what its RL stages were asked for.

    RL's program takes a minute to compile, and test_quickstart.py runs it: here its steps are left out, so that an RL
    policy is the policy that it starts from.
    """
    out, asked = tmp_path_factory.mktemp("tables"), []
    module, run = table("training"), importlib.import_module("table_run")
    chosen = options("training", out=out)

    def train_grpo(setting, stage, pool, before, seed, tools, *, identity, run):
        asked.append((identity, stage, tools, jax.tree.map(np.asarray, before)))
        (run["folder"] / "grpo").mkdir(parents=True)
        return start(before, ("^decoder",), stage.optimizer.build(), jax.random.key(seed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("table_cells"), "train_grpo", train_grpo)
        return out, chosen, run.compute(chosen, module.plan(chosen)), asked


def trainings(out):
    """When each policy was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("trainings/*/policy.safetensors")}


@pytest.mark.slow
def test_every_line_has_its_cells_and_the_table_is_written(trained, monkeypatch, capsys):
    out, chosen, runs, _ = trained
    module, run = table("training"), importlib.import_module("table_run")
    assert {name: len(mine[0].items) for name, mine in runs.items()} == dict.fromkeys(module.TOOLS, 36)
    kinds = sorted(path.name.split("-")[0] for path in (out / "trainings").iterdir())
    assert kinds == ["direct", "eyes", "rl", "rl", "rl", "sft"]
    assert not list(out.glob("trainings/*/checkpoints")), "checkpoints of a finished training are of no more use"
    page = out / "RESULTS.md"
    page.write_text("# Results\n")
    monkeypatch.setattr(sys, "argv", ["experiments/table_training.py", "--packaged"])
    run.write(dataclasses.replace(chosen, results=page), module.compose(chosen, runs))
    assert "table_training.tex" in capsys.readouterr().out
    found = json.loads((out / "table_training.json").read_text())
    assert found["lines"][5]["names"] == {"training": "full", "tools": "on"}
    assert found["lines"][5]["values"]["all"]["n"] == 36 and found["run"]["seeds"] == "0"
    assert "command: python experiments/table_training.py --packaged" in page.read_text()


@pytest.mark.slow
def test_rl_starts_where_its_line_says(trained):
    out, chosen, _, asked = trained
    parents = {"RL without SFT": "direct", "RL without tools": "direct", "full": "sft"}
    plan = table("training").plan(chosen)
    stages = {identity: (stage, tools, before) for identity, stage, tools, before in asked}
    assert len(stages) == 3
    for name, parent in parents.items():
        training = plan[name][0].training
        stage, tools, before = stages[training.identity]
        assert stage == chosen.grpo and tools == (name != "RL without tools") and training.parent.kind == parent
        held = load_policy(out / "trainings" / training.parent.identity / "policy.safetensors")
        jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, held))


@pytest.mark.slow
def test_tables_share_trainings_and_cells(trained):
    """The main table needs tools off for SFT and full beside what the training table played, and trains nothing."""
    out, _, runs, _ = trained
    module, run = table("main"), importlib.import_module("table_run")
    chosen = options("main", out=out)
    before, cells = trainings(out), {path.name for path in (out / "cells").iterdir()}
    found = run.compute(chosen, module.plan(chosen))
    assert trainings(out) == before
    assert len({path.name for path in (out / "cells").iterdir()} - cells) == 2
    for ours, theirs in {"base, off": "base", "base, on": "base + tools", "SFT, on": "SFT", "full, on": "full"}.items():
        np.testing.assert_array_equal(found[ours][0].correct, runs[theirs][0].correct)
    lines = module.compose(chosen, found).body()
    assert [line[0] for line in lines[-2:]] == ["all", "calls a question"] and len(lines) == 14


@pytest.mark.slow
def test_a_second_run_computes_nothing_and_a_lost_cell_comes_back_the_same(trained, monkeypatch):
    out, chosen, runs, _ = trained
    cells_of, run = importlib.import_module("table_cells"), importlib.import_module("table_run")
    plan = {"SFT": table("training").plan(chosen)["SFT"]}
    monkeypatch.setattr(cells_of, "evaluate", None)
    again = run.compute(chosen, plan)
    np.testing.assert_array_equal(again["SFT"][0].correct, runs["SFT"][0].correct)
    monkeypatch.undo()
    path = out / "cells" / f"{plan['SFT'][0].identity}.json"
    kept = json.loads(path.read_text())
    path.unlink()
    run.compute(chosen, plan)
    assert {**json.loads(path.read_text()), "seconds": 0} == {**kept, "seconds": 0}


@pytest.mark.slow
def test_a_stop_keeps_what_is_finished_and_a_stopped_training_goes_on(trained, tmp_path):
    """Stopped after the first step of SFT, then run again: the policy of the unbroken run, and no training twice."""
    out, chosen, _, _ = trained
    module, run = table("training"), importlib.import_module("table_run")
    cells_of = importlib.import_module("table_cells")
    plan = [cell for name in ("base", "SFT") for cell in module.plan(chosen)[name]]
    eyes, direct = (f"{kind}-" for kind in ("eyes", "direct"))
    (tmp_path / "trainings").mkdir()
    for path in (out / "trainings").iterdir():  # SFT alone is to be trained
        if path.name.startswith((eyes, direct)):
            (tmp_path / "trainings" / path.name).symlink_to(path)
    interrupts = Interrupts()

    class Stopping(cells_of.Counted):
        def write(self, stage, step, values):
            super().write(stage, step, values)
            interrupts.requested = interrupts.requested or stage == "sft"

    counted, cells_of.Counted = cells_of.Counted, Stopping
    try:
        with Progress() as progress, pytest.raises(Interrupted, match="stopped in stage sft after step"):
            cells_of.Workshop(tmp_path, chosen.at_once, progress, interrupts).outcomes(plan)
    finally:
        cells_of.Counted = counted
    (cell,) = (path.stem for path in (tmp_path / "cells").iterdir())
    assert cell == plan[0].identity
    name = plan[1].training.identity
    assert not (tmp_path / "trainings" / name / "policy.safetensors").exists()
    assert list((tmp_path / "trainings" / name / "checkpoints" / "sft").iterdir())
    run.compute(dataclasses.replace(chosen, out=tmp_path), {"base": plan[:1], "SFT": plan[1:]})
    broken, whole = (folder / "trainings" / name / "policy.safetensors" for folder in (tmp_path, out))
    assert broken.read_bytes() == whole.read_bytes()
    steps = [json.loads(line)["step"] for line in (broken.parent / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def made_up(cell, right):
    """Outcomes of a cell that nobody played."""
    families = importlib.import_module("table_run").FAMILIES
    pairs = [(name, one.needs) for name, one in families.items() for _ in range(cell.per_family)]
    n = len(pairs)
    return Outcomes(
        items=np.array([f"test/{name}/{number}" for number, (name, _) in enumerate(pairs)]),
        groups={"family": np.array([name for name, _ in pairs]), "needs": np.array([needs for _, needs in pairs])},
        correct=np.random.default_rng(cell.training.seed).random(n) < right,
        calls=np.ones(n, np.int32),
        seed=cell.training.seed,
        seconds=1.0,
    )


@pytest.mark.parametrize("name", TABLES)
def test_the_full_size_plan_and_what_its_table_says(name):
    """No line of a table is another's, and every number has its seeds and protocol."""
    module = table(name)
    chosen = dataclasses.replace(full_size(name), per_family=5)
    plan = module.plan(chosen)
    identities = [tuple(cell.identity for cell in cells) for cells in plan.values()]
    alone = {name for name in plan if name not in ("group 8", "turns 3", "resolution 64")}  # the default once more
    assert len(set(identities)) == len(alone)
    assert all(len(cells) == chosen.seeds for cells in plan.values())
    runs = {
        line: [made_up(cell, 0.2 + 0.6 * number / len(plan)) for cell in cells]
        for number, (line, cells) in enumerate(plan.items())
    }
    made = module.compose(chosen, runs)
    assert made.name == f"table_{name}" and len(made.values()) >= len(plan)
    text = "\n".join(made.notes())
    for part in (
        "packaged atlas",
        " 60 items a seed" if name != "main" else "5 items of every set, 60 a seed",
        "normalised exact match",
        "tools",
        "implanted",
    ):
        assert part in text
    for value in made.values():
        one = value.estimate
        assert one.seeds == tuple(range(chosen.seeds)) and one.low <= one.mean <= one.high


def test_what_tables_share_and_what_they_do_not():
    training, main, rewards = (full_size(name) for name in ("training", "main", "rewards"))
    assert training.eyes().identity == rewards.eyes().identity
    assert training.taught(1).identity == main.taught(1).identity != main.taught(2).identity
    assert training.reinforced(0).identity == main.reinforced(0).identity != rewards.reinforced(0).identity
    assert len({rewards.rewarded(name).reinforced(0).identity for name in rewards.rewards}) == 6
    scaling = full_size("scaling")
    assert scaling.reinforced(0).identity == main.reinforced(0).identity
    same = scaling.varied("resolution", 64)
    assert same.reinforced(0).identity == main.reinforced(0).identity, "the default under another name is the default"
    assert scaling.varied("turns", 2).eyes().identity == main.eyes().identity
    assert scaling.varied("resolution", 32).eyes().identity != main.eyes().identity
    group = scaling.varied("group", 4).grpo
    assert group.prompts * group.algorithm.group == main.grpo.prompts * main.grpo.algorithm.group


def test_prompts_and_calls_of_all_tools_fit():
    """The teacher's trajectories with every tool of the tool table, in the room that its setting gives."""
    from medvista_jax.data import controls
    from medvista_jax.data.atlas import Atlas
    from medvista_jax.data.teachers import TeacherConfig, teach

    whole = full_size("tools").without()
    setting, atlas = whole.setting, Atlas("test")
    items = [atlas.item(*pair) for pair in atlas.plan(120)]
    assert len(setting.pool_of(items)) == 120
    rng = np.random.default_rng(0)
    texts = [teach(item, rng, TeacherConfig(), whole.tools, setting.turns) for item in items for _ in range(5)]
    called = {name for name in whole.tools if any(f'"{name}"' in turn for episode in texts for turn in episode)}
    assert called == set(whole.tools), "a tool that the teacher never calls teaches nothing"
    controls.encode_script(texts, setting.tokenizer, setting.turns, setting.turn_tokens)


@pytest.mark.parametrize(
    "name, arguments, line",
    [
        (
            "tools",
            (),
            "table_tools: it trains the packaged model only; add --packaged.",
        ),
        (
            "main",
            (),
            "table_main: name models, --models NAME=FOLDER …, or add --packaged for medvista-tiny on the atlas",
        ),
        ("main", ("--models", "nothing"), "table_main: --models 'nothing' is not NAME=FOLDER"),
        ("main", ("--models", "a=nowhere"), "table_main: --models a=nowhere: nowhere is no model folder of the hub"),
        (
            "training",
            ("--packaged", "--seeds", "0"),
            "table_training: --seeds 0 and --per-family 60 must be",
        ),
    ],
)
def test_mistakes_are_one_line(name, arguments, line, monkeypatch, capsys):
    module, run = table(name), importlib.import_module("table_run")
    monkeypatch.setattr(sys, "argv", [f"experiments/table_{name}.py", *arguments])
    hub = (module.with_hub,) if name == "main" else ()
    status = run.run_table(type(full_size(name)), module.__doc__, module.plan, module.compose, *hub)
    said = capsys.readouterr().err
    assert status == 1 and said.startswith(line) and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("name", TABLES)
def test_help_and_a_wrong_knob(name, monkeypatch, capsys):
    module, run = table(name), importlib.import_module("table_run")
    for arguments, status in ((["--help"], 0), (["--sedes", "3"], 2)):
        monkeypatch.setattr(sys, "argv", [f"experiments/table_{name}.py", *arguments])
        with pytest.raises(SystemExit) as end:
            run.run_table(type(full_size(name)), module.__doc__, module.plan, module.compose)
        assert end.value.code == status
    assert "--packaged" in capsys.readouterr().out
    wrong = {
        "rewards": ({"rewards": ("vista_r2",)}, "no reward vista_r2"),
        "tools": ({"tools": ("zoom_in",)}, "two families"),
        "scaling": ({"groups": (3,)}, "divide the 128 episodes"),
    }
    if name in wrong:
        changes, message = wrong[name]
        with pytest.raises(ValueError, match=message):
            type(full_size(name))(**changes)
