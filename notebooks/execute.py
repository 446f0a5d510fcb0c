"""Executes the notebooks headless and keeps their pictures: each NAME.py (py:percent) beside its NAME.ipynb.

    python notebooks/execute.py                        # all of them
    python notebooks/execute.py trajectories your_data

The `.py` is what is edited; the `.ipynb` holds the same cells with their output. Needs jupytext, nbclient and
ipykernel.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent
SECONDS = 1800
"""Most for one cell; a loaded machine takes several times what a free one does."""


def names() -> list[str]:
    """Of all notebooks."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != Path(__file__).stem)


def executed(name: str) -> nbformat.NotebookNode:
    """The notebook of a `.py` with the output of every cell.

    Raises:
      CellExecutionError: a cell failed.
    """
    notebook = jupytext.read(FOLDER / f"{name}.py")
    paths = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Progress bars, colours and XLA's remarks on slow compilation are no part of a result.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TERM": "dumb", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    environment.setdefault("MEDVISTA_OUT", tempfile.mkdtemp(prefix="notebook-"))  # not what an earlier run left
    client = NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(FOLDER)}}, record_timing=False
    )
    client.execute(env=environment)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # random ones would change with every execution
        cell.metadata.clear()
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    return notebook


def main(chosen: list[str]) -> int:
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        print(f"no notebook {', '.join(unknown)}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    for name in chosen or names():
        started = time.perf_counter()
        try:
            notebook = executed(name)
        except CellExecutionError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        path = FOLDER / f"{name}.ipynb"
        nbformat.write(notebook, path)
        print(f"{name}: {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
