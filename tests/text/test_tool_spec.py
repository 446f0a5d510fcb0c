"""Arguments and specs: what they say of themselves, and what cannot be said."""

from __future__ import annotations

import pytest

from medvista_jax.core.tool_spec import Argument, ToolSpec, python_values
from tests.text.specs import MARK, SEARCH

WRONG = [
    ({"name": ""}, "at least one character"),
    ({"name": 3}, "at least one character"),
    ({"kind": "float"}, "kind 'float' is not one of 'integer', 'boolean'"),
    ({"kind": "enum"}, "at least one choice"),
    ({"kind": "enum", "choices": ("a", "b", "a")}, "stands twice"),
    ({"kind": "enum", "choices": "ab"}, "tuple of strings"),
    ({"kind": "enum", "choices": ("a", 3)}, "tuple of strings"),
    ({"kind": "integer", "choices": ("a",)}, "only an enum"),
    ({"minimum": 3, "maximum": 2}, "above maximum"),
    ({"minimum": 1001}, "above maximum 1000"),
    ({"minimum": 0.0, "maximum": 1.5}, "integers"),
    ({"minimum": False}, "integers"),
    ({"kind": "string", "minimum": -1}, "cannot have -1 bytes"),
    ({"kind": "box", "minimum": 4, "maximum": 4}, "always empty"),
    ({"default": 1001}, "outside 0…1000"),
    ({"default": -1}, "outside"),
    ({"default": 1.0}, "an integer"),
    ({"default": True}, "an integer"),
    ({"default": (1,)}, "an integer"),
    ({"kind": "enum", "choices": ("a", "b"), "default": 2}, "outside 0…1"),
    ({"kind": "enum", "choices": ("a", "b"), "default": "a"}, "index of a choice"),
    ({"kind": "boolean", "default": 2}, "outside 0…1"),
    ({"kind": "boolean", "default": "true"}, "True or False"),
    ({"kind": "point", "default": 3}, "two integers"),
    ({"kind": "point", "default": (1, 2, 3)}, "two integers"),
    ({"kind": "point", "default": (1, 1001)}, "outside"),
    ({"kind": "box", "default": 3}, "four integers"),
    ({"kind": "box", "default": (1, 2, 3)}, "four integers"),
    ({"kind": "box", "default": (1, 2, 3, 4.0)}, "four integers"),
    ({"kind": "box", "default": (1, 2, 1, 4)}, "empty"),
    ({"kind": "string", "default": "x"}, "default of a string is ''"),
    ({"kind": "string", "default": 0}, "default of a string is ''"),
]


@pytest.mark.parametrize(("fields", "words"), WRONG)
def test_impossible_arguments_are_refused(fields, words) -> None:
    with pytest.raises(ValueError, match=words):
        Argument(**{"name": "a", "description": "", **fields})


def test_a_tool_has_a_name() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        ToolSpec("", "", ())


def test_bounds_follow_the_kind() -> None:
    bounds = {
        kind: (a.minimum, a.maximum)
        for kind in ("integer", "point", "box", "string", "boolean")
        for a in [Argument("a", "", kind)]
    }
    assert bounds == {
        "integer": (0, 1000),
        "point": (0, 1000),
        "box": (0, 1000),
        "string": (1, 200),
        "boolean": (0, 1),
    }
    assert Argument("a", "", "enum", choices=("x", "y", "z")).maximum == 2
    assert hash(Argument("a", "", "enum", choices=["x"])) == hash(Argument("a", "", "enum", choices=("x",)))


def test_schema_of_each_kind() -> None:
    properties = MARK.schema()["function"]["parameters"]["properties"]
    number = {"type": "integer", "minimum": 0, "maximum": 1000}
    assert properties["point_2d"] == {
        "type": "array",
        "items": number,
        "minItems": 2,
        "maxItems": 2,
        "description": "x and y, 0 to 1000",
    }
    assert properties["label"] == {
        "type": "string",
        "minLength": 1,
        "maxLength": 12,
        "description": "word beside the mark",
    }
    assert properties["filled"] == {"type": "boolean", "description": "whether the mark is filled"}
    assert SEARCH.schema()["function"]["parameters"]["required"] == ["query", "exact"]


def test_no_schema_shows_the_family() -> None:
    assert ToolSpec("a", "", (), family="measure").schema() == ToolSpec("a", "", ()).schema()


def test_slots_of_the_kinds_lie_side_by_side() -> None:
    assert MARK.width == 7 and MARK.offsets() == {"point_2d": 0, "label": 2, "filled": 4, "low": 5}


def test_python_values_of_slots() -> None:
    assert python_values(MARK, [3, 4, 2, 99, 1, -9, 9, 0, 0], ["ab"]) == {
        "point_2d": [3, 4],
        "label": "ab",
        "filled": True,
        "low": [-9, 9],
    }
    enum = ToolSpec("e", "", (Argument("a", "", "enum", choices=("x", "y")), Argument("b", "")))
    assert python_values(enum, (1, 7)) == {"a": "y", "b": 7}
    with pytest.raises(ValueError, match="7 slots and 1 texts, not 7 and 0"):
        python_values(MARK, [0] * 7)
    with pytest.raises(ValueError, match="not 6 and 1"):
        python_values(MARK, [0] * 6, [""])


def test_texts_that_no_call_can_spell() -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        SEARCH.render_call(query="\ud800", exact=True)
    assert SEARCH.render_call(query="</tool_call> é\n", exact=False) == (
        '{"name": "search", "arguments": {"query": "\\u003c/tool_call> é\\n", "exact": false}}'
    )
