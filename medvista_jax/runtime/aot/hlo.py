"""What a compiled program does, read from its text (optimised HLO): operations and bytes of collectives, loops counted.

XLA's own ``cost_analysis`` counts the body of a loop once. Here a loop counts as often as its condition says: a scan's
compares its counter with a constant. One whose end depends on the data (decoding, turns) counts once and is counted in
:attr:`Cost.open_loops`. Of a conditional's branches the costliest counts.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*\(.*\)\s*->.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT\s+)?%?([\w.\-]+)\s*=\s*(.*?)\s([a-z][\w\-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: result type and what stands behind the operation's name, as text."""

    name: str
    kind: str
    result: str
    rest: str


@dataclasses.dataclass
class Cost:
    """Of one execution, on one chip.

    Attributes:
      flops: of matrix products and convolutions, kernels included.
      kernels: of that, inside custom kernels.
      collectives: kind -> (how often, bytes of results).
      open_loops: loops without a known count, in which everything counts once.
    """

    flops: float = 0.0
    kernels: float = 0.0
    collectives: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    open_loops: int = 0

    def add(self, other: Cost, times: float = 1.0) -> None:
        """``times`` executions of something more."""
        self.flops += times * other.flops
        self.kernels += times * other.kernels
        self.open_loops += other.open_loops
        for kind, (count, size) in other.collectives.items():
            have = self.collectives.get(kind, (0.0, 0.0))
            self.collectives[kind] = (have[0] + times * count, have[1] + times * size)


def shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of every array that a type names."""
    return [
        (dtype, tuple(map(int, filter(None, dims.split(",")))))
        for dtype, dims in _SHAPE.findall(text)
        if dtype in _BYTES
    ]


def nbytes(text: str) -> int:
    """Bytes of all arrays of a type."""
    return sum(_BYTES[dtype] * math.prod(shape) for dtype, shape in shapes(text))


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Instructions of every computation by its name, and the name of the entry."""
    found: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = found.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            current.append(Instruction(match[1], match[3], match[2], match[4]))
    return found, entry


def cost(text: str) -> Cost:
    """The cost of a compiled program from ``compiled.as_text()``."""
    found, entry = computations(text)
    turns = lambda condition, body: _trips(found.get(condition, []), found.get(body, []))  # noqa: E731
    types = {name: {i.name: i.result for i in instructions} for name, instructions in found.items()}

    @functools.cache
    def of(name: str) -> Cost:
        total = Cost()
        for instruction in found.get(name, ()):
            _count(instruction, types[name], of, turns, total)
        return total

    return of(entry)


def _trips(condition: list[Instruction], body: list[Instruction]) -> int | None:
    """How often a loop runs whose counter goes up from 0 by a constant to a constant; None where something else ends
    it. Products that gather their operand on the way (XLA's windowed einsum) count by twos."""
    root = condition[-1] if condition else None
    if root is None or root.kind != "compare" or "direction=LT" not in root.rest:
        return None
    sides = [_constant(condition, name) for name in _operands(root)]
    if sides[-1] is None:
        return None
    counter = next((i for i in condition if i.name == _operands(root)[0]), root)
    place = re.search(r"index=(\d+)", counter.rest)
    return -(-sides[-1] // _step(body, int(place[1]))) if place else sides[-1]


def _step(body: list[Instruction], place: int) -> int:
    """What a turn of a loop adds to an entry of its state; 1 where that is not to be seen."""
    names = _operands(body[-1]) if body else []
    ends = [i for i in body if place < len(names) and i.name == names[place] and i.kind == "add"]
    steps = [step for i in ends for name in _operands(i) if (step := _constant(body, name))]
    return steps[0] if steps else 1


def _constant(instructions: list[Instruction], name: str) -> int | None:
    """The value of an integer constant of a computation."""
    found = (i for i in instructions if i.name == name and i.kind == "constant" and re.match(r"[su]\d+\[\]", i.result))
    return next((int(i.rest.split(")")[0]) for i in found), None)


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", instruction.rest.split(")")[0])


def _count(
    instruction: Instruction,
    types: dict[str, str],
    of: Callable[[str], Cost],
    turns: Callable[[str, str], int | None],
    total: Cost,
) -> None:
    kind, rest = instruction.kind, instruction.rest
    base = kind.removesuffix("-start")
    if base in COLLECTIVES and not kind.endswith("-done"):
        arrays = shapes(instruction.result)
        # The result of a start holds the operands too; what is received comes behind them.
        arrays = arrays[len(arrays) // 2 :] if kind.endswith("-start") and len(arrays) > 1 else arrays
        size = sum(_BYTES[dtype] * math.prod(shape) for dtype, shape in arrays)
        total.add(Cost(collectives={base: (1.0, float(size))}))
    elif kind == "while":
        trips = turns(_called(rest, "condition"), _called(rest, "body"))
        total.open_loops += trips is None
        total.add(of(_called(rest, "body")), 1.0 if trips is None else trips)
    elif kind == "conditional":
        names = re.search(r"branch_computations=\{([^}]*)\}", rest)
        branches = (
            names[1].split(",") if names else [_called(rest, "true_computation"), _called(rest, "false_computation")]
        )
        total.add(max((of(name.strip().lstrip("%")) for name in branches), key=lambda c: c.flops))
    elif kind in ("fusion", "call", "async-start"):
        total.add(of(_called(rest, "calls" if kind != "call" else "to_apply")))
    elif kind in ("convolution", "dot"):
        operands = [types.get(name, "") for name in _operands(instruction)]
        flops = (_convolution if kind == "convolution" else _dot)(instruction, operands)
        total.add(Cost(flops=flops))
    elif kind == "custom-call" and "tpu_custom_call" in rest:
        operands = [types.get(name, "") for name in _operands(instruction)]
        flops = _splash(instruction, operands)
        total.add(Cost(flops=flops, kernels=flops))


def _called(rest: str, key: str) -> str:
    match = re.search(rf"\b{key}=%?([\w.\-]+)", rest)
    return match[1] if match else ""


def _dot(instruction: Instruction, operands: list[str]) -> float:
    left = shapes(operands[0])[0][1]
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    contracted = math.prod(left[int(d)] for d in dims[1].split(",") if d) if dims else 1
    return 2.0 * math.prod(shapes(instruction.result)[0][1]) * contracted


def _convolution(instruction: Instruction, operands: list[str]) -> float:
    """Pairs of an output and a kernel position that meet an input, as XLA counts them: a batched product is a
    convolution whose window meets one input a position."""
    left, right = shapes(operands[0])[0][1], shapes(operands[1])[0][1]
    out = shapes(instruction.result)[0][1]
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    lhs, rhs, result = labels.groups()
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    spatial = [label for label in lhs if label.isdigit()]
    meet = 1.0
    for at, label in enumerate(sorted(spatial)):
        pick = lambda name, default, at=at: settings[name].split("x")[at] if name in settings else default  # noqa: E731
        meet *= _meetings(
            left[lhs.index(label)],
            right[rhs.index(label)],
            out[result.index(label)],
            int(pick("stride", "1")),
            int(pick("pad", "0_0").split("_")[0]),
            int(pick("lhs_dilate", "1")),
            int(pick("rhs_dilate", "1")),
        )
    batch_and_features = math.prod(out[result.index(label)] for label in "bf")
    return 2.0 * batch_and_features * right[rhs.index("i")] * meet


@functools.cache
def _meetings(size: int, kernel: int, out: int, stride: int, pad: int, base: int, window: int) -> int:
    """How many pairs (output, kernel position) of one dimension read an input that is there."""
    count = 0
    for o in range(out):
        for k in range(kernel):
            at = o * stride + k * window - pad
            count += at % base == 0 and 0 <= at // base < size
    return count


_PRODUCTS = (("dkv", 4), ("dq", 3), ("", 2))
"""Matrix products ``[queries, slots, width]`` of the splash kernels: the gradient for keys and values computes the
scores anew and three products more, that for queries two more, the forward pass has two."""


def kernels(text: str, name: str) -> int:
    """How many places of a program call a custom kernel whose name begins so."""
    found, _ = computations(text)
    every = (i for instructions in found.values() for i in instructions)
    return sum(i.kind == "custom-call" and "tpu_custom_call" in i.rest and i.name.startswith(name) for i in every)


def _splash(instruction: Instruction, operands: list[str]) -> float:
    """Causal: half of all pairs. The first array with heads are queries, the next wide one keys; with one head of keys
    on a chip they have no axis of it. The kernel's name is the call's."""
    name = instruction.name
    if not name.startswith("splash"):
        return 0.0
    arrays = [
        shape for text in operands for dtype, shape in shapes(text) if len(shape) >= 2 and dtype in ("bf16", "f32")
    ]
    if len(arrays) < 2 or len(arrays[0]) < 3:
        return 0.0
    q, k = arrays[0], arrays[1]
    products = next(number for key, number in _PRODUCTS if key in name)
    return products * 2.0 * math.prod(q) * k[-2] / 2
