"""ChatML prompts and observations, Qwen style: text of a question, and templates that the device fills in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.tool_text import MOST_DIGITS, NUMBERS, SLOT, Slot, check_text, read_slot
from medvista_jax.core.types import Array, Fault
from medvista_jax.text.tokenizer import Tokenizer, encode_plain

Style = Literal["compact", "qwen"]

INSTRUCTION = (
    "Answer the question about the image. Think inside <think></think>. Then either call one tool, or give "
    "the final answer inside <answer></answer>."
)
"""System message of the ``"qwen"`` style."""

ERRORS: Mapping[Fault, str] = {
    Fault.NO_ACTION: "error: no call and no answer",
    Fault.MALFORMED: "error: the call is not valid JSON",
    Fault.UNKNOWN_TOOL: "error: unknown tool",
    Fault.UNKNOWN_ARGUMENT: "error: unknown argument",
    Fault.MISSING_ARGUMENT: "error: missing argument",
    Fault.WRONG_TYPE: "error: argument of wrong type",
    Fault.OUT_OF_RANGE: "error: argument out of range",
    Fault.EMPTY_BOX: "error: empty box",
    Fault.NO_SUCH_IMAGE: "error: no such image",
    Fault.NO_CALLS_LEFT: "error: no calls left",
    Fault.NO_IMAGES_LEFT: "error: no images left",
    Fault.TOOL_FAILED: "error: the tool failed",
    Fault.TOOL_TIMED_OUT: "error: the tool did not answer in time",
    Fault.UNSUITABLE_IMAGE: "error: the tool cannot use this image",
}
"""What the policy reads for each fault."""

FINAL_TEXT = ", answer now"


@dataclasses.dataclass(frozen=True)
class Frame:
    """What stands around a tool's result, from the end of the turn that called it to the next turn's beginning.

    Attributes:
      before, after: around the result.
      image_before, image_after: around the symbols that stand for an image's embeddings.
      image_symbol: the symbol itself, once for every embedding.
    """

    before: str
    after: str
    image_before: str = "<|vision_start|>"
    image_after: str = "<|vision_end|>"
    image_symbol: str = "<|image_pad|>"


_FRAMES: Mapping[str, Frame] = {
    "compact": Frame(
        "<|im_end|>\n<|im_start|>user\n<tool_response>", "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    ),
    "qwen": Frame(
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    ),
}
"""``"qwen"`` puts newlines inside ``<tool_response>``, as Qwen's templates do."""


class PromptTokens(NamedTuple):
    """A rendered prompt.

    Attributes:
      tokens: ids.
      feature: ``image * L + k`` where the id stands for the k-th embedding of that image, L the largest
        of the images' costs; -1 for text. As long as ``tokens``.
    """

    tokens: list[int]
    feature: list[int]


def tool_line(tools: Sequence[ToolSpec]) -> str:
    """The compact style's system message."""
    return "tools: " + (", ".join(tool.name for tool in tools) or "none")


def tool_block(tools: Sequence[ToolSpec]) -> str:
    """The tool part of the system message, word for word as Qwen2.5's and Qwen3's chat templates have it."""
    signatures = "".join("\n" + json.dumps(tool.schema(), ensure_ascii=False) for tool in tools)
    return (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n"
        f"<tools>{signatures}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def system_text(tools: Sequence[ToolSpec], style: Style) -> str:
    """The system message.

    Raises:
      ValueError: for an unknown style.
    """
    if style == "compact":
        return tool_line(tools)
    if style == "qwen":
        return INSTRUCTION + ("\n\n" + tool_block(tools) if tools else "")
    raise ValueError(f"style {style!r} is not one of 'compact', 'qwen'")


def render_prompt(
    tokenizer: Tokenizer,
    question: str,
    image_tokens: Sequence[int],
    tools: Sequence[ToolSpec],
    style: Style = "compact",
) -> PromptTokens:
    """The prompt up to and with ``<|im_start|>assistant\\n``.

    Args:
      tokenizer: its ``special`` must hold ``<|image_pad|>``.
      question: plain text: tags spelt out in it do not act as tags.
      image_tokens: how many embeddings each image costs, in order.
      tools: what is offered; none is allowed.
      style: ``"compact"`` for tiny models, ``"qwen"`` with JSON schemas.

    Raises:
      ValueError: for an unknown style.
    """
    tokens: list[int] = []
    feature: list[int] = []

    def add(ids: Sequence[int], features: Sequence[int] | None = None) -> None:
        tokens.extend(ids)
        feature.extend([-1] * len(ids) if features is None else features)

    pad, widest = tokenizer.special["<|image_pad|>"], max(image_tokens, default=0)
    add(tokenizer.encode(f"<|im_start|>system\n{system_text(tools, style)}<|im_end|>\n<|im_start|>user\n"))
    for image, count in enumerate(image_tokens):
        add(tokenizer.encode("<|vision_start|>"))
        add([pad] * count, range(image * widest, image * widest + count))
        add(tokenizer.encode("<|vision_end|>"))
    add(encode_plain(tokenizer, question))
    add(tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n"))
    return PromptTokens(tokens, feature)


class Chat(Protocol):
    """How prompts are rendered: :class:`CompactChat`, or :class:`medvista_jax.text.hub_chat.HubChat`."""

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def frame(self) -> Frame:
        """What stands around a tool's result."""
        ...

    def prompt(self, question: str, image_tokens: Sequence[int], tools: Sequence[ToolSpec] = ()) -> PromptTokens: ...


@dataclasses.dataclass(frozen=True)
class CompactChat:
    """:func:`render_prompt` in the compact style, for tiny models."""

    tokenizer: Tokenizer

    @property
    def frame(self) -> Frame:
        return _FRAMES["compact"]

    def prompt(self, question: str, image_tokens: Sequence[int], tools: Sequence[ToolSpec] = ()) -> PromptTokens:
        return render_prompt(self.tokenizer, question, image_tokens, tools)


class Said(NamedTuple):
    """A text that can stand in an observation.

    Attributes:
      text: with the slots of :mod:`medvista_jax.core.tool_text`.
      image: whether the returned image stands before it.
    """

    text: str
    image: bool


@struct.dataclass
class ObservationTemplates:
    """One row a kind of observation, twice over: the second half says that the next turn must answer.

    Row ``f`` is the error text of fault ``f`` (row 0 is empty), then come the texts of the tools, then, where there is
    room for a host tool's words, a row for them. N rows, W slots.

    Attributes:
      tokens_NW: int32 ids.
      valid_NW: bool, False behind the end.
      feature_NW: int32 index of the embedding within the returned image, -1 for text.
      number_NW: int32 whose digit or sign stands here: 0 the returned image's index, 1 + k number k; -1 for none.
      place_NW: int32 power of ten of the digit, -1 for the sign slot.
      decimals_NW: int32 digits behind the point of the number.
      most_NW: int32 largest magnitude of the number, in units of its last digit.
      signed_NW: int32, 1 where the number may be negative, else 0.
      said_NW: int32 index of the host's token that stands here, -1 for none.
      digits: int32 [10] ids of the digits.
    """

    tokens_NW: Array
    valid_NW: Array
    feature_NW: Array
    number_NW: Array
    place_NW: Array
    decimals_NW: Array
    most_NW: Array
    signed_NW: Array
    said_NW: Array
    digits: Array

    @property
    def kinds(self) -> int:
        return self.tokens_NW.shape[0] // 2

    @property
    def width(self) -> int:
        return self.tokens_NW.shape[1]


class _Slot(NamedTuple):
    token: int
    feature: int = -1
    number: int = -1
    place: int = 0
    decimals: int = 0
    most: int = 0
    signed: int = 0
    said: int = -1


def _single(tokenizer: Tokenizer, text: str) -> int:
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        raise ValueError(f"the tokenizer spells {text!r} with {len(ids)} ids; digits and '-' must be one id each")
    return ids[0]


def build_observations(
    tokenizer: Tokenizer,
    image_tokens: int,
    style: Style | Frame = "compact",
    texts: Sequence[Said] = (),
    host_tokens: int = 0,
) -> ObservationTemplates:
    """Templates of every observation that can follow a turn, up to the next ``assistant`` line.

    Args:
      tokenizer: digits and ``-`` must be one id each.
      image_tokens: embeddings of a returned image, L.
      style: of the prompt; for a hub's chat template its frame, :attr:`medvista_jax.text.hub_chat.HubChat.frame`.
      texts: what tools can say: kinds ``len(Fault)`` and up.
      host_tokens: room for the words of host tools, the last kind; 0 where there are no such tools.

    Raises:
      ValueError: when a digit is not one id, for an unknown style, or for a number slot that is none.
    """
    frame = _FRAMES.get(style) if isinstance(style, str) else style
    if frame is None:
        raise ValueError(f"style {style!r} is not one of 'compact', 'qwen'")
    for said in texts:
        check_text(said.text, NUMBERS)
    errors = [Said(ERRORS.get(fault, ""), False) for fault in Fault]
    kinds = [*errors, *texts, *([None] if host_tokens else [])]
    rows = [
        _observation_row(tokenizer, frame, said, final, image_tokens, host_tokens)
        for final in ("", FINAL_TEXT)
        for said in kinds
    ]
    width = max(map(len, rows))
    table = np.full((len(rows), width, len(_Slot._fields)), _Slot(tokenizer.pad_id), np.int32)
    valid = np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        table[index, : len(row)] = np.array(row, np.int32).reshape(-1, len(_Slot._fields))  # an empty frame: no slot
        valid[index, : len(row)] = True
    digits = np.array([_single(tokenizer, str(d)) for d in range(10)], np.int32)
    tokens, *rest = (table[..., at] for at in range(table.shape[-1]))
    return ObservationTemplates(tokens, valid, *rest, digits)


def _observation_row(
    tokenizer: Tokenizer, frame: Frame, said: Said | None, final: str, image_tokens: int, host_tokens: int
) -> list[_Slot]:
    """The slots of one observation; an image stands before its text. None: the words of a host tool."""
    pad = tokenizer.special[frame.image_symbol]
    row: list[_Slot] = []
    pending = frame.before  # text is encoded in one go: pieces of a vocabulary reach across the parts' borders

    def add(slots: Iterable[_Slot]) -> None:
        nonlocal pending
        row.extend(map(_Slot, tokenizer.encode(pending)))
        row.extend(slots)
        pending = ""

    if said is None:
        add(_Slot(pad, said=k) for k in range(host_tokens))
    elif said.image:
        pending += frame.image_before
        add(_Slot(pad, feature=k) for k in range(image_tokens))
        pending = frame.image_after
    text, at = "" if said is None else said.text, 0
    for found in SLOT.finditer(text):
        pending += text[at : found.start()]
        at = found.end()
        add(_number_slots(tokenizer, pad, read_slot(found)))
    pending += text[at:] + final + frame.after
    add(())
    return row


def _number_slots(tokenizer: Tokenizer, pad: int, slot: Slot) -> list[_Slot]:
    """Sign, where there is room for one, digits, point and decimals of a number."""
    digit = _Slot(pad, number=slot.number + 1, decimals=slot.behind, most=slot.most, signed=int(slot.signed))
    places = [digit._replace(place=place) for place in reversed(range(slot.before + slot.behind))]
    sign = [digit._replace(token=_single(tokenizer, "-"), place=-1)] if slot.signed else []
    point = [_Slot(token) for token in tokenizer.encode(".")] if slot.behind else []
    return [*sign, *places[: slot.before], *point, *places[slot.before :]]


@struct.dataclass
class HostWords:
    """What host tools said to the rows that asked them.

    Attributes:
      fault_B: int32 :class:`Fault`; NONE where the words count.
      tokens_BN: int32 ids.
      length_B: int32, how many count.
    """

    fault_B: Array
    tokens_BN: Array
    length_B: Array


def render(
    templates: ObservationTemplates,
    kind_B: Array,
    image_B: Array,
    numbers_BN: Array,
    final_B: Array,
    words: HostWords | None = None,
) -> tuple[Array, Array, Array]:
    """Observations of a batch, numbers and words written in. Pure and jittable.

    Args:
      kind_B: int32 row: a :class:`Fault`, or ``len(Fault) + i`` for the i-th text.
      image_B: int32 index of the returned image.
      numbers_BN: float32; rounded to the slot's decimals, magnitudes clipped to its digits, NaN becomes 0, and so does
        what is below 0 where a slot has no sign.
      final_B: bool, whether the text says that the next turn must answer.
      words: of host tools, for rows of the last kind.

    Returns:
      tokens_BW int32, valid_BW bool (holes where a number has fewer digits than slots), feature_BW int32.
    """
    row_B = kind_B + final_B.astype(jnp.int32) * templates.kinds
    table = jax.tree.map(lambda leaf: jnp.asarray(leaf)[row_B], templates.replace(digits=templates.tokens_NW))
    all_BN = jnp.concatenate([image_B[:, None].astype(jnp.float32), numbers_BN], axis=1)
    value_BW = jnp.take_along_axis(all_BN, jnp.clip(table.number_NW, 0, all_BN.shape[1] - 1), axis=1)
    power_N = jnp.asarray([10**place for place in range(MOST_DIGITS)], jnp.int32)
    scaled_BW = jnp.round(jnp.nan_to_num(value_BW) * power_N[table.decimals_NW].astype(jnp.float32))
    scaled_BW = jnp.where(table.signed_NW > 0, scaled_BW, jnp.maximum(scaled_BW, 0.0))
    # A float32 bound could round up past int32's place for it: compare before the conversion.
    beyond_BW = jnp.abs(scaled_BW) >= table.most_NW.astype(jnp.float32)
    size_BW = jnp.where(beyond_BW, table.most_NW, jnp.abs(scaled_BW).astype(jnp.int32))
    power_BW = power_N[jnp.maximum(table.place_NW, 0)]
    digit_BW = size_BW // power_BW % 10
    in_number_BW, is_sign_BW = table.number_NW >= 0, table.place_NW < 0
    unit_BW = table.place_NW <= table.decimals_NW  # digits that stand even in 0
    shown_BW = jnp.where(is_sign_BW, (value_BW < 0) & (size_BW > 0), (size_BW >= power_BW) | unit_BW)
    tokens_BW = jnp.where(in_number_BW & ~is_sign_BW, jnp.asarray(templates.digits)[digit_BW], table.tokens_NW)
    valid_BW = table.valid_NW & (~in_number_BW | shown_BW)
    if words is not None:
        at_BW = jnp.clip(table.said_NW, 0, words.tokens_BN.shape[1] - 1)
        says_BW = table.said_NW >= 0
        tokens_BW = jnp.where(says_BW, jnp.take_along_axis(words.tokens_BN, at_BW, axis=1), tokens_BW)
        valid_BW &= ~says_BW | (table.said_NW < words.length_B[:, None])
    return tokens_BW, valid_BW, table.feature_NW
