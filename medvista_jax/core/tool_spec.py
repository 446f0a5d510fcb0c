"""What a tool says about itself: the one source of the prompt's tool block, the grammar and the parsers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

WIDTHS = {"integer": 1, "boolean": 1, "enum": 1, "point": 2, "string": 2, "box": 4}
"""The kinds of arguments, and how many int32 slots the parsed value of each takes."""

CHECKSUM_BASE, CHECKSUM_MODULUS = 257, 8_355_967
"""Of :func:`text_slots`. The modulus is the largest prime for which a step stays below 2**31."""


def text_slots(raw: bytes) -> tuple[int, int]:
    """The two slots that stand for a string: its length in raw bytes, and their checksum.

    The checksum is the polynomial ``c ← (257 c + byte) mod 8355967`` from 0 on (Karp and Rabin 1987). It is below
    2**24, and every step fits int32.
    """
    checksum = 0
    for byte in raw:
        checksum = (checksum * CHECKSUM_BASE + byte) % CHECKSUM_MODULUS
    return len(raw), checksum


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Argument:
    """One argument of a tool.

    ========= ===================================== ===================================================
    kind      in JSON                               parsed value, int32 slots
    ========= ===================================== ===================================================
    integer   integer                               itself
    boolean   ``true`` or ``false``                 1 or 0
    enum      one of the strings ``choices``        index into ``choices``
    point     array of two integers                 the two
    box       array of four integers                the four
    string    any text                              length and checksum of its bytes (:func:`text_slots`)
    ========= ===================================== ===================================================

    Attributes:
      name: key in the call's ``arguments`` object.
      description: one sentence for the prompt.
      kind: of the table above.
      minimum, maximum: inclusive bounds of an integer and of each number of a point or box, 0…1000 unless told; of
        a string's raw bytes between its quotes, escapes not undone, 1…200 unless told. An enum's and a boolean's
        follow from the kind.
      choices: the strings of an enum.
      default: parsed value when the key is absent (two integers for a point, four for a box, ``""`` for a string);
        ``None``: the argument is required.

    Raises:
      ValueError: an argument that no call could fill, a default that no call could give (an optional string's is
        empty, whatever its bounds), or fields that contradict the kind.
    """

    name: str
    description: str
    kind: str = "integer"
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[str, ...] = ()
    default: int | str | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"an argument's name is a string of at least one character, not {self.name!r}")
        if self.kind not in WIDTHS:
            raise self._wrong(f"kind {self.kind!r} is not one of {', '.join(map(repr, WIDTHS))}")
        if isinstance(self.choices, str) or not all(isinstance(choice, str) for choice in self.choices):
            raise self._wrong(f"choices are a tuple of strings, not {self.choices!r}")
        self._set("choices", tuple(self.choices))
        if self.kind == "enum" and not self.choices:
            raise self._wrong("an enum needs at least one choice")
        if self.kind != "enum" and self.choices:
            raise self._wrong(f"only an enum has choices, not a kind {self.kind!r}")
        if len(set(self.choices)) != len(self.choices):
            raise self._wrong(f"a choice stands twice in {self.choices}")
        self._settle_bounds()
        self._check_default()

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"argument {self.name!r}: {what}")

    def _set(self, field: str, value: Any) -> None:
        object.__setattr__(self, field, value)

    def _settle_bounds(self) -> None:
        if self.kind in ("enum", "boolean"):
            self._set("minimum", 0)
            self._set("maximum", 1 if self.kind == "boolean" else len(self.choices) - 1)
            return
        low, high = (1, 200) if self.kind == "string" else (0, 1000)
        self._set("minimum", low if self.minimum is None else self.minimum)
        self._set("maximum", high if self.maximum is None else self.maximum)
        if not _is_integer(self.minimum) or not _is_integer(self.maximum):
            raise self._wrong(f"bounds are integers, not {self.minimum!r} and {self.maximum!r}")
        if self.minimum > self.maximum:
            raise self._wrong(f"minimum {self.minimum} is above maximum {self.maximum}")
        if self.kind == "string" and self.minimum < 0:
            raise self._wrong(f"a string cannot have {self.minimum} bytes")
        if self.kind == "box" and self.minimum == self.maximum:
            raise self._wrong(f"a box between {self.minimum} and {self.maximum} is always empty")

    def _check_default(self) -> None:
        if self.default is None:
            return
        if self.kind == "string":
            if self.default != "":
                raise self._wrong(f"the default of a string is '', not {self.default!r}")
            return
        numbers = self.default
        if self.kind in ("point", "box"):
            fits = isinstance(numbers, tuple | list) and len(numbers) == self.width
            if not fits or not all(map(_is_integer, numbers)):
                count = "two" if self.kind == "point" else "four"
                raise self._wrong(f"the default of a {self.kind} is {count} integers, not {self.default!r}")
            self._set("default", tuple(numbers))
        elif self.kind == "boolean":
            if not isinstance(numbers, bool | int):
                raise self._wrong(f"the default of a boolean is True or False, not {self.default!r}")
            numbers = (int(numbers),)
            self._set("default", numbers[0])
        else:
            if not _is_integer(numbers):
                wanted = "the index of a choice" if self.kind == "enum" else "an integer"
                raise self._wrong(f"the default is {wanted}, not {self.default!r}")
            numbers = (numbers,)
        if not all(self.minimum <= number <= self.maximum for number in numbers):
            raise self._wrong(f"default {self.default} lies outside {self.minimum}…{self.maximum}")
        if self.kind == "box" and (numbers[2] <= numbers[0] or numbers[3] <= numbers[1]):
            raise self._wrong(f"the default box {self.default} is empty")

    @property
    def width(self) -> int:
        """How many int32 slots the parsed value takes."""
        return WIDTHS[self.kind]

    @property
    def default_slots(self) -> tuple[int, ...]:
        """The slots of an absent argument; zeros for a required one."""
        if self.default is None or self.default == "":
            return (0,) * self.width
        return self.default if isinstance(self.default, tuple) else (self.default,)

    def schema(self) -> dict[str, Any]:
        """JSON schema of this argument's value.

        A schema counts a string's characters where the parsers count raw bytes, which are never fewer: what is too
        long for the schema is too long for the parsers.
        """
        number = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        value: dict[str, Any] = number
        if self.kind in ("point", "box"):
            value = {"type": "array", "items": number, "minItems": self.width, "maxItems": self.width}
        elif self.kind == "enum":
            value = {"type": "string", "enum": list(self.choices)}
        elif self.kind == "boolean":
            value = {"type": "boolean"}
        elif self.kind == "string":
            value = {"type": "string", "minLength": self.minimum, "maxLength": self.maximum}
        return {**value, "description": self.description}


def _render(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class ToolSpec:
    """Name, one-sentence description and arguments of a tool, in call order.

    Attributes:
      name, description: what the prompt says.
      arguments: in the order of their slots.
      family: ``"view"``, ``"intensity"``, ``"measure"``, ``"recognise"`` or the user's own word, to group tools in
        tables; no prompt shows it.
    """

    name: str
    description: str
    arguments: tuple[Argument, ...]
    family: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a tool's name is a string of at least one character, not {self.name!r}")

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
        """The body of a call, ``{"name": …, "arguments": {…}}``, arguments in the order given.

        Args:
          values: by argument name, as :func:`python_values` gives them. They are not held against the spec.

        A string argument's ``<`` is written ``\\u003c``: a tag in a text closes nothing. Nothing else that ASCII
        lacks is escaped, for an enum's choice must stand as it is.

        Raises:
          ValueError: text with a lone surrogate, which UTF-8 cannot spell.
        """
        texts = {argument.name for argument in self.arguments if argument.kind == "string"}
        pairs = []
        for name, value in values.items():
            shown = _render(value).replace("<", "\\u003c") if name in texts else _render(value)
            pairs.append(f"{_render(name)}: {shown}")
        body = f'{{"name": {_render(self.name)}, "arguments": {{{", ".join(pairs)}}}}}'
        if any("\ud800" <= character <= "\udfff" for character in body):
            raise ValueError(f"tool {self.name!r}: a lone surrogate cannot stand in a call: {body!r}")
        return body


def python_values(spec: ToolSpec, slots: Sequence[int], texts: Sequence[str] = ()) -> dict[str, Any]:
    """Parsed arguments as what Python calls them, by name in the spec's order.

    Args:
      spec: of the tool that was called.
      slots: its int32 slots, defaults filled in; more than its width may follow.
      texts: the text of each of its string arguments, in order.

    Returns:
      ``int`` for an integer, ``list`` for a point or box, ``bool``, the choice of an enum, the text of a string.

    Raises:
      ValueError: fewer slots than the spec's width, or not one text for each string argument.
    """
    strings = [argument.name for argument in spec.arguments if argument.kind == "string"]
    if len(slots) < spec.width or len(texts) != len(strings):
        raise ValueError(
            f"tool {spec.name!r} has {spec.width} slots and {len(strings)} texts, not {len(slots)} and {len(texts)}"
        )
    of_string, values, at = dict(zip(strings, texts, strict=True)), {}, 0
    for argument in spec.arguments:
        numbers = [int(number) for number in slots[at : at + argument.width]]
        at += argument.width
        if argument.kind == "string":
            values[argument.name] = of_string[argument.name]
        elif argument.kind == "enum":
            values[argument.name] = argument.choices[numbers[0]]
        elif argument.kind == "boolean":
            values[argument.name] = bool(numbers[0])
        else:
            values[argument.name] = numbers[0] if argument.kind == "integer" else numbers
    return values
