"""Tool specs that the tests of this folder share."""

from __future__ import annotations

from medvista_jax.core.tool_spec import Argument, ToolSpec

ZOOM_IN = ToolSpec(
    "zoom_in",
    "Cut a box out of an image and enlarge it.",
    (
        Argument("bbox_2d", "x1, y1, x2, y2 of the box, 0 to 1000", "box"),
        Argument("image_index", "image to look at", "integer", 0, 15, default=0),
    ),
)
ADJUST_WINDOW = ToolSpec(
    "adjust_window",
    "Show an image again between two grey values.",
    (
        Argument("low", "value shown black", "integer", -2000, 65535),
        Argument("high", "value shown white", "integer", -2000, 65535),
        Argument("image_index", "image to look at", "integer", 0, 15, default=0),
    ),
)
FLIP = ToolSpec(
    "flip",
    "Mirror an image.",
    (
        Argument("axis", "which way", "enum", choices=("horizontal", "vertical", "hor")),
        Argument("image_index", "image to look at", "enum", choices=("first", "last"), default=1),
    ),
)
INVERT = ToolSpec("invert", "Swap black and white.", ())
PAIR = ToolSpec(
    "zoom_in_two",
    "Show two boxes side by side.",
    (
        Argument("bbox_2d", "first box", "box", -5, 5, default=(0, 1, 2, 3)),
        Argument("low", "second box", "box"),
        Argument("größe", "a name that is not ASCII", "enum", choices=("klein", "groß", "größer")),
    ),
)
MARK = ToolSpec(
    "mark",
    "Draw a mark beside a word.",
    (
        Argument("point_2d", "x and y, 0 to 1000", "point"),
        Argument("label", "word beside the mark", "string", 1, 12, default=""),
        Argument("filled", "whether the mark is filled", "boolean", default=True),
        Argument("low", "where its line ends", "point", -9, 9, default=(1, -2)),
    ),
)
SEARCH = ToolSpec(
    "search",
    "Look a question up.",
    (
        Argument("query", "words to look for", "string"),
        Argument("exact", "whether the words stand together", "boolean"),
        Argument("axis", "a note", "string", 0, 3, default=""),
    ),
)
TWO = (ZOOM_IN, ADJUST_WINDOW)
FIVE = (PAIR, FLIP, ZOOM_IN, INVERT, ADJUST_WINDOW)
SEVEN = (*FIVE, MARK, SEARCH)
"""All kinds, and keys that are of different kinds in different tools."""
