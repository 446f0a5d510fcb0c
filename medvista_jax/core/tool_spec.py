"""What a tool says about itself: the one source of the prompt's tool block, the grammar and the parsers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a tool.

    Attributes:
      name: key in the call's ``arguments`` object.
      description: one sentence for the prompt.
      kind: ``"integer"``, ``"box"`` (array of four integers), ``"enum"`` (one of ``choices``) or ``"string"``.
      minimum, maximum: inclusive bounds for integers, for each number of a box, and for the bytes of a string.
      choices: the strings of an enum; the parsed value is the index into this tuple.
      default: parsed value when the key is absent (four integers for a box); ``None``: the argument is required.
    """

    name: str
    description: str
    kind: str = "integer"
    minimum: int = 0
    maximum: int = 1000
    choices: tuple[str, ...] = ()
    default: int | str | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("integer", "box", "enum", "string"):
            raise ValueError(f"argument {self.name!r}: kind {self.kind!r} is not 'integer', 'box', 'enum' or 'string'")
        if self.kind == "enum" and not self.choices:
            raise ValueError(f"argument {self.name!r}: an enum needs at least one choice")

    @property
    def width(self) -> int:
        """How many int32 slots the parsed value takes."""
        return 4 if self.kind == "box" else 1

    def schema(self) -> dict[str, Any]:
        """JSON schema of this argument's value."""
        number = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        if self.kind == "box":
            value = {"type": "array", "items": number, "minItems": 4, "maxItems": 4}
        elif self.kind == "enum":
            value = {"type": "string", "enum": list(self.choices)}
        elif self.kind == "string":
            value = {"type": "string", "minLength": min(self.minimum, 1), "maxLength": self.maximum}
        else:
            value = number
        return {**value, "description": self.description}


@dataclasses.dataclass(frozen=True)
class ToolSpec:
    """Name, one-sentence description and arguments of a tool, in call order; ``family`` is for lists of tools."""

    name: str
    description: str
    arguments: tuple[Argument, ...]
    family: str = ""

    @property
    def width(self) -> int:
        """int32 slots that all arguments take together."""
        return sum(argument.width for argument in self.arguments)

    def offsets(self) -> dict[str, int]:
        """First slot of each argument in the parsed vector."""
        offsets, at = {}, 0
        for argument in self.arguments:
            offsets[argument.name] = at
            at += argument.width
        return offsets

    def schema(self) -> dict[str, Any]:
        """The tool as Qwen's and OpenAI's ``tools`` list describes it."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": {
                    "type": "object",
                    "properties": {argument.name: argument.schema() for argument in self.arguments},
                    "required": [a.name for a in self.arguments if a.default is None],
                    "additionalProperties": False,
                },
            },
        }

    def render_call(self, **values: Any) -> str:
        """The body of a call, ``{"name": …, "arguments": {…}}``, arguments in the order given."""
        return json.dumps({"name": self.name, "arguments": values})
