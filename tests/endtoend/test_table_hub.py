"""The main table of hub models: which answers belong to a cell, and the table made of the runner's files."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from medvista_jax.evaluation.paper_tables import markdown

ROOT = Path(__file__).resolve().parents[2]
RIGHT = {
    ("small", False): {"vqa_rad": "1100", "slake": "000"},
    ("small", True): {"vqa_rad": "1110", "slake": "001"},
    ("large", False): {"vqa_rad": "1111", "slake": "011"},
    ("large", True): {"vqa_rad": "0111", "slake": "111"},
}


@pytest.fixture
def table_hub(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("table_hub")


def finished(folder, verdicts, tools):
    """What the runner leaves of a set."""
    folder.mkdir(parents=True)
    for name, right in verdicts.items():
        lines = [
            {"set": name, "id": f"test-{number}", "right": mark == "1", "calls": 2 * tools}
            for number, mark in enumerate(right)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = {
            "data_set": name.upper(),
            "set": name,
            "split": "test",
            "subset": "closed",
            "n": len(right),
            "scorer": "fixed",
            "seeds": [42],
            "temperature": 0.0,
            "protocol_line": "protocol medvlthinker: closed questions only",
        }
        (folder / f"{name}.result.json").write_text(json.dumps(result))


def test_the_table_of_finished_cells(table_hub, tmp_path):
    cells = {}
    for number, ((name, tools), verdicts) in enumerate(RIGHT.items()):
        finished(tmp_path / str(number), verdicts, tools)
        cells[name, tools] = table_hub.read_cell(tmp_path / str(number), ("vqa_rad", "slake"))
    made = table_hub.compose_hub(cells, ("vqa_rad", "slake"), table_hub.Hub())
    assert made.heads() == ["set", "n", "small, off", "small, on", "large, off", "large, on", "MedVistaGym-8B †"]
    rows = {line[0]: line[1:] for line in made.body()}
    assert [text.split(" ")[0] for text in rows["vqa_rad"]] == ["4", "50.0", "75.0", "100.0", "75.0", "70.75"]
    assert rows["mean of sets"] == ["–", "25.0", "54.2", "83.3", "87.5", "–"]
    assert rows["calls a question"] == ["–", "0.00", "2.00", "0.00", "2.00", "–"]
    text = markdown(made)
    named = ("protocol medvlthinker", "seed 42", "n 3", "scorer fixed", "temperature 0", "2601.07107", "not public")
    assert all(part in text for part in named)
    assert "Miniatures" not in text
    few = table_hub.compose_hub(cells, ("vqa_rad", "slake"), table_hub.Hub(subset=True))
    assert "no numbers to publish" in markdown(few)


def test_answers_belong_to_their_weights_and_settings(table_hub, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"one")
    assert table_hub.named_folders([f"small={model}"]) == {"small": model}
    with pytest.raises(ValueError, match="two models are named small"):
        table_hub.named_folders([f"small={model}", f"small={model}"])
    hub = table_hub.Hub()
    place = lambda tools=True, hub=hub: table_hub.folder_of(tmp_path, "small", model, tools, hub)  # noqa: E731
    first = place()
    assert place() == first and place(hub=dataclasses.replace(hub, sets=("slake",), at_once=2)) == first
    others = [{"tools": "flip"}, {"view": 224}, {"protocol": "medevalkit"}, {"subset": True}, {"turns": 2}]
    places = {place(hub=dataclasses.replace(hub, **change)) for change in others}
    assert len({first, place(False), *places}) == 7
    (model / "model.safetensors").write_bytes(b"other")
    assert place() != first


def test_a_finished_table_asks_nothing_and_a_stop_is_passed_on(table_hub, tmp_path, monkeypatch):
    """With a runner that answers by files: what it is asked, and what becomes of its status."""
    runner = table_hub.benchmark
    model, asked = tmp_path / "model", []
    model.mkdir()
    (model / "config.json").write_text("{}")

    def main(arguments, status=0):
        chosen = runner.parser().parse_args(arguments)
        asked.append((chosen.sets, chosen.tools))
        if not status:
            finished(chosen.out, RIGHT["small", bool(chosen.tools)], bool(chosen.tools))
        return status

    hub = table_hub.Hub(sets=("vqa_rad", "slake"))
    ask = lambda: table_hub.run_hub(tmp_path, [f"small={model}"], hub, lambda line: None)  # noqa: E731
    monkeypatch.setattr(runner, "main", lambda arguments: main(arguments, 143))
    with pytest.raises(table_hub.Interrupted) as stop:
        ask()
    assert stop.value.exit_code == 143
    monkeypatch.setattr(runner, "main", lambda arguments: main(arguments, 2))
    with pytest.raises(ValueError, match="ended with status 2"):
        ask()
    asked.clear()
    monkeypatch.setattr(runner, "main", main)
    first = ask()
    assert asked == [("vqa_rad,slake", ""), ("vqa_rad,slake", "zoom_in,adjust_window")]
    assert ask().body() == first.body() and len(asked) == 2
