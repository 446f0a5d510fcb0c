"""Notebooks: `.py` and `.ipynb` hold the same cells, pictures are kept and small, and every cell still runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

for package in ("jupytext", "nbclient", "ipykernel"):
    pytest.importorskip(package, reason="the notebooks need it: pip install jupytext nbclient ipykernel")

import jupytext  # noqa: E402
import nbformat  # noqa: E402

from notebooks import execute  # noqa: E402

NAMES = execute.names()
MOST_BYTES = 400_000


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_five():
    assert NAMES == ["add_a_tool", "colab_tpu", "reward_shaping", "trajectories", "your_data"]


@pytest.mark.parametrize("name", NAMES)
def test_the_pair_has_the_same_cells(name):
    edited = jupytext.read(execute.FOLDER / f"{name}.py")
    kept = nbformat.read(execute.FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(kept)
    cells = [[(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in (edited, kept)]
    assert cells[0] == cells[1], f"python notebooks/execute.py {name} makes the .ipynb anew"
    assert kept.cells[0].source.startswith("# ") and "Not for clinical use" in "".join(c.source for c in kept.cells)


@pytest.mark.parametrize("name", NAMES)
def test_output_is_kept_small_and_clean(name):
    path = execute.FOLDER / f"{name}.ipynb"
    kept = nbformat.read(path, as_version=4)
    assert path.stat().st_size < MOST_BYTES
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "not executed from top to bottom"
    assert not [output for output in outputs(kept) if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs(kept))
    text = json.dumps([[output.get("text"), output.get("traceback")] for output in outputs(kept)])
    assert (
        "slow_operation_alarm" not in text and str(Path.home()) not in text and str(execute.FOLDER.parent) not in text
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name, monkeypatch, tmp_path):
    """Nothing but the `.py` is read; assertions inside the notebooks say what must come out."""
    monkeypatch.setenv("MEDVISTA_OUT", str(tmp_path / "out"))
    notebook = execute.executed(name)
    assert any("image/png" in output.get("data", {}) for output in outputs(notebook))
