"""The tools that come with the package, by name, and tools of a user's own file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from medvista_jax.tools.adjust_window import adjust_window
from medvista_jax.tools.base import Tool
from medvista_jax.tools.count_objects import count_objects
from medvista_jax.tools.distance import distance
from medvista_jax.tools.edge_map import edge_map
from medvista_jax.tools.equalize import equalize
from medvista_jax.tools.find_bright_blobs import find_bright_blobs
from medvista_jax.tools.flip import flip
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.intensity_profile import intensity_profile
from medvista_jax.tools.invert import invert
from medvista_jax.tools.overlay_grid import overlay_grid
from medvista_jax.tools.pan_compare import pan_compare
from medvista_jax.tools.region_statistics import region_statistics
from medvista_jax.tools.rotate import rotate
from medvista_jax.tools.segment_region import segment_region
from medvista_jax.tools.stain_separation import stain_separation
from medvista_jax.tools.symmetry_difference import symmetry_difference
from medvista_jax.tools.zoom_in import zoom_in


def by_name(tools: Iterable[Tool | HostTool]) -> dict[str, Tool | HostTool]:
    """Tools by their names."""
    return {tool.name: tool for tool in tools}


DEFAULT_TOOLS: dict[str, Tool] = by_name((zoom_in, adjust_window))
"""What the packaged experiments offer."""

ALL_TOOLS: dict[str, Tool] = by_name(
    (
        *(zoom_in, rotate, flip, pan_compare, overlay_grid),
        *(adjust_window, equalize, invert, edge_map, stain_separation),
        *(distance, region_statistics, intensity_profile, count_objects, symmetry_difference),
        *(segment_region, find_bright_blobs),
    )
)
"""Every tool that needs nothing but the image."""


def load_tools(path: str | Path) -> dict[str, Tool | HostTool]:
    """The tools that a Python file defines, of the device or of the host, by name, in their order. The file is run.

    Raises:
      FileNotFoundError, ValueError: naming the file; where it fails, the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; a Python file that defines tools is wanted")
    module = _run(path)
    found = by_name(value for value in vars(module).values() if isinstance(value, Tool | HostTool))
    if not found:
        raise ValueError(
            f"{path} defines no tool: decorate a function with one of medvista_jax.tools.define, or with host_tool"
        )
    return found


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"medvista_tools_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        trace, line = error.__traceback__, None
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == str(path) else line
            trace = trace.tb_next
        where = f"{path}, line {line}" if line else str(path)
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    return module
