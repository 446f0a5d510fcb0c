"""ChatML prompts and observations, Qwen style: text of a question, and templates that the device fills in."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np
from flax import struct

from medvista_jax.core.tool_spec import ToolSpec
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

IMAGE_TEXT = "image {0}"
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

NUMBER_DIGITS = 5
"""Digits a number slot holds; one more slot is for the sign."""


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

    def prompt(self, question: str, image_tokens: Sequence[int], tools: Sequence[ToolSpec] = ()) -> PromptTokens: ...


@dataclasses.dataclass(frozen=True)
class CompactChat:
    """:func:`render_prompt` in the compact style, for tiny models."""

    tokenizer: Tokenizer

    def prompt(self, question: str, image_tokens: Sequence[int], tools: Sequence[ToolSpec] = ()) -> PromptTokens:
        return render_prompt(self.tokenizer, question, image_tokens, tools)


@struct.dataclass
class ObservationTemplates:
    """One row a kind of observation, twice over: the second half says that the next turn must answer.

    Row ``Fault.NONE`` (0) is success with a new image, row ``f`` the error text of fault ``f``, further rows
    are the builder's extra texts. N rows, W slots.

    Attributes:
      tokens_NW: int32 ids.
      valid_NW: bool, False behind the end.
      feature_NW: int32 index of the embedding within the returned image, -1 for text.
      number_NW: int32 which number's digit or sign stands here, -1 for none.
      place_NW: int32 power of ten of the digit, -1 for the sign slot.
      digits: int32 [10] ids of the digits.
    """

    tokens_NW: Array
    valid_NW: Array
    feature_NW: Array
    number_NW: Array
    place_NW: Array
    digits: Array

    @property
    def kinds(self) -> int:
        return self.tokens_NW.shape[0] // 2

    @property
    def width(self) -> int:
        return self.tokens_NW.shape[1]


def _single(tokenizer: Tokenizer, text: str) -> int:
    ids = tokenizer.encode(text)
    if len(ids) != 1:
        raise ValueError(f"the tokenizer spells {text!r} with {len(ids)} ids; digits and '-' must be one id each")
    return ids[0]


def build_observations(
    tokenizer: Tokenizer, image_tokens: int, style: Style | Frame = "compact", extra: Sequence[str] = ()
) -> ObservationTemplates:
    """Templates of every observation that can follow a turn, up to the next ``assistant`` line.

    Args:
      tokenizer: digits and ``-`` must be one id each.
      image_tokens: embeddings of a returned image, L.
      style: of the prompt; for a hub's chat template its frame, :attr:`medvista_jax.text.hub_chat.HubChat.frame`.
      extra: further texts, kinds ``len(Fault)`` and up; ``{0}``, ``{1}`` … are number slots.

    Raises:
      ValueError: when a digit is not one id, or for an unknown style.
    """
    frame = _FRAMES.get(style) if isinstance(style, str) else style
    if frame is None:
        raise ValueError(f"style {style!r} is not one of 'compact', 'qwen'")
    texts = [IMAGE_TEXT, *(ERRORS[fault] for fault in Fault if fault != Fault.NONE), *extra]
    rows = [
        _observation_row(tokenizer, frame, text + final, image_tokens if kind == Fault.NONE else None)
        for final in ("", FINAL_TEXT)
        for kind, text in enumerate(texts)
    ]
    width = max(map(len, rows))
    table = np.full((len(rows), width, 4), [tokenizer.pad_id, -1, -1, 0], np.int32)
    valid = np.zeros((len(rows), width), bool)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
        valid[index, : len(row)] = True
    digits = np.array([_single(tokenizer, str(d)) for d in range(10)], np.int32)
    return ObservationTemplates(table[..., 0], valid, table[..., 1], table[..., 2], table[..., 3], digits)


def _observation_row(
    tokenizer: Tokenizer, frame: Frame, text: str, image_tokens: int | None
) -> list[tuple[int, int, int, int]]:
    """Id, feature, number and place of every slot. An image stands before the text; ``{0}`` in it is a number."""
    minus, pad = _single(tokenizer, "-"), tokenizer.special[frame.image_symbol]
    row: list[tuple[int, int, int, int]] = []
    pending = frame.before  # text is encoded in one go: pieces of a vocabulary reach across the parts' borders

    def flush() -> None:
        row.extend((token, -1, -1, 0) for token in tokenizer.encode(pending))

    if image_tokens is not None:
        pending += frame.image_before
        flush()
        row.extend((pad, k, -1, 0) for k in range(image_tokens))
        pending = frame.image_after
    for at, piece in enumerate(text.replace("}", "{").split("{")):  # text, number, text, number, … text
        if at % 2 == 0:
            pending += piece
            continue
        flush()
        row.append((minus, -1, int(piece), -1))
        row.extend((pad, -1, int(piece), place) for place in reversed(range(NUMBER_DIGITS)))
        pending = ""
    pending += frame.after
    flush()
    return row


def render(
    templates: ObservationTemplates, kind_B: Array, numbers_BN: Array, final_B: Array | bool = False
) -> tuple[Array, Array, Array]:
    """Observations of a batch, numbers written in. Pure and jittable.

    Args:
      kind_B: int32 row: 0 for a new image, a :class:`Fault`, or ``len(Fault) + i`` for the i-th extra text.
      numbers_BN: int32, at least as wide as the texts' highest slot; magnitudes above 99999 are clipped.
        For a new image number 0 is its index.
      final_B: bool, whether the text says that the next turn must answer.

    Returns:
      tokens_BW int32, valid_BW bool (holes where a number has fewer digits than slots), feature_BW int32.
    """
    most = 10**NUMBER_DIGITS - 1
    row_B = jnp.asarray(kind_B) + jnp.asarray(final_B).astype(jnp.int32) * templates.kinds
    tokens_BW, number_BW, place_BW, feature_BW = (
        jnp.asarray(table)[row_B]
        for table in (templates.tokens_NW, templates.number_NW, templates.place_NW, templates.feature_NW)
    )
    value_BW = jnp.take_along_axis(jnp.asarray(numbers_BN), jnp.maximum(number_BW, 0), axis=1)
    size_BW = jnp.abs(jnp.clip(value_BW, -most, most))
    power_BW = jnp.asarray([10**place for place in range(NUMBER_DIGITS)], jnp.int32)[jnp.maximum(place_BW, 0)]
    digit_BW = size_BW // power_BW % 10
    in_number_BW, is_sign_BW = number_BW >= 0, place_BW < 0
    shown_BW = jnp.where(is_sign_BW, value_BW < 0, (size_BW >= power_BW) | (place_BW == 0))
    tokens_BW = jnp.where(in_number_BW & ~is_sign_BW, jnp.asarray(templates.digits)[digit_BW], tokens_BW)
    valid_BW = jnp.asarray(templates.valid_NW)[row_B] & (~in_number_BW | shown_BW)
    return tokens_BW, valid_BW, feature_BW
