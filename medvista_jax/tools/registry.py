"""The tools that come with the package, by name."""

from __future__ import annotations

from medvista_jax.tools import adjust_window, zoom_in
from medvista_jax.tools.base import Tool

DEFAULT_TOOLS: dict[str, Tool] = {tool.name: tool for tool in (zoom_in.TOOL, adjust_window.TOOL)}
