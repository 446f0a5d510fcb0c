"""Episodes in plain text over the batched functions of the gym: turns go in as text, words and pixels come out.

A turn is parsed as the bytes of its UTF-8; no tokenizer of a model is involved. ``rows`` episodes stand side by side
and each is stepped when its turn is there; rows without one are padding of the same compiled programs. Questions whose
images need canvases of different sizes may stand side by side: there is one batch a canvas, and a compilation each.

Answers are held here, beside the state of the environment and not in it (promise 4).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medvista_jax.core.types import Array, Fault, ImageBank, Kind, ParsedTurn, Question
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import (
    Environment,
    EnvState,
    act,
    asks_host,
    read,
    render_originals,
    render_views,
    reset,
)
from medvista_jax.environment.host_calls import answer_calls
from medvista_jax.environment.items import AnyItem, pictures_of
from medvista_jax.text.byte_tokenizer import ByteTokenizer
from medvista_jax.text.chat import Frame, HostWords
from medvista_jax.text.normalise import normalise
from medvista_jax.tools import read_text
from medvista_jax.tools.base import Tool
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.registry import ALL_TOOLS, load_tools

TURN_BYTES = 4096
"""Bytes of a turn that are read, from its end; a longer one is cut at its beginning and is not well formed."""

ANSWER_BYTES = 1024
"""Bytes of the longest answer that counts; a longer one is empty, and wrong."""

TURNS = 6

AnyTool = Tool | HostTool
_BARE = Frame(before="", after="", image_before="", image_after="")


@dataclasses.dataclass(frozen=True, eq=False)
class Opening:
    """The beginning of an episode.

    Attributes:
      text: the question.
      images: uint8 ``[h, w, C]`` each, image 0 first.
      final: the first turn must answer.
    """

    text: str
    images: tuple[np.ndarray, ...]
    final: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Reply:
    """What came of a turn.

    Attributes:
      text: what stands inside the tool response, "" at the end of the episode.
      image, image_index: uint8 ``[h, w, C]`` and its index where the turn returned an image, else None.
      kind, tool, fault: the turn as understood; ``tool`` is "" where no known tool was called.
      well_formed: thinking, then one call or answer, and nothing else.
      final: the next turn must answer.
      done: the episode is over; ``truncated`` where it ran out of turns without an answer.
      answer, correct: at the end of the episode, else None. ``answer`` is "" where there was none, or one too long.
    """

    text: str
    image: np.ndarray | None
    image_index: int | None
    kind: Kind
    tool: str
    fault: Fault
    well_formed: bool
    final: bool
    done: bool
    truncated: bool
    answer: str | None
    correct: bool | None


class _Shape(NamedTuple):
    """What a compiled program is for: canvas rows and columns, originals, channels, type of the pixels."""

    rows: int
    columns: int
    originals: int
    channels: int
    dtype: str


def choose_tools(tools: str | Sequence[str | AnyTool] | None) -> tuple[AnyTool, ...]:
    """Tools by name.

    Args:
      tools: tools, names ("read_text" among them) or paths of Python files that define tools; a string of such names
        with commas between; None for all that need nothing but the image; empty for none.

    Raises:
      ValueError, FileNotFoundError: naming what is there instead.
    """
    if tools is None:
        return tuple(ALL_TOOLS.values())
    if isinstance(tools, str):
        tools = [name.strip() for name in tools.split(",") if name.strip()]
    by_name = {**ALL_TOOLS, read_text.TOOL.name: read_text.TOOL}
    chosen: list[AnyTool] = []
    for tool in tools:
        if not isinstance(tool, str):
            chosen.append(tool)
        elif tool.endswith(".py"):
            chosen += load_tools(tool).values()
        elif tool in by_name:
            chosen.append(by_name[tool])
        else:
            raise ValueError(f"no tool {tool!r}; there are {', '.join(by_name)}, and those of a file NAME.py")
    return tuple(chosen)


class Episodes:
    """``rows`` episodes side by side. For one thread; all else is in the methods.

    ::

        episodes = Episodes(tools="zoom_in,flip", rows=2)
        opening = episodes.start(0, item)
        reply = episodes.step({0: '<tool_call>{"name": "zoom_in", "arguments": {…}}</tool_call>'})[0]

    Args:
      tools: see :func:`choose_tools`; without any, a question is answered in one turn.
      rows: B, episodes at a time.
      view_size: h, w of every image that the policy sees, or the side of a square.
      turns: the most that an episode has.
      max_calls, max_images: tool calls, and images that tools return; ``turns - 1`` by default.
      turn_bytes, answer_bytes: see :data:`TURN_BYTES` and :data:`ANSWER_BYTES`.
      buckets: sides of the square canvases on which originals lie; larger images are reduced to the largest.
      workers: threads for host tools.

    Raises:
      ValueError: tools that do not go together, or no turn.
    """

    def __init__(
        self,
        tools: str | Sequence[str | AnyTool] | None = None,
        rows: int = 1,
        view_size: int | tuple[int, int] = 448,
        turns: int = TURNS,
        max_calls: int | None = None,
        max_images: int | None = None,
        turn_bytes: int = TURN_BYTES,
        answer_bytes: int = ANSWER_BYTES,
        buckets: Sequence[int] | None = None,
        workers: int = 8,
    ) -> None:
        if rows < 1:
            raise ValueError(f"{rows} episodes; at least one row is needed")
        offered = choose_tools(tools)
        self.tools = offered
        self.rows = rows
        self.max_turns = turns if offered else 1
        self.max_calls = (self.max_turns - 1 if max_calls is None else max_calls) if offered else 0
        self.max_images = self.max_turns - 1 if max_images is None else max_images
        self._workers = workers
        self._buckets = buckets
        self.environment = build_environment(
            ByteTokenizer(),
            offered or choose_tools("zoom_in"),  # tables cannot be empty; the budget of calls is
            tokens_per_image=1,
            view_size=(view_size, view_size) if isinstance(view_size, int) else view_size,
            turns=self.max_turns,
            turn_tokens=turn_bytes + 1,  # one more shows that a turn was cut
            style=_BARE,
            host_tokens=max([tool.text_bytes for tool in offered if isinstance(tool, HostTool)], default=0),
            turn_bytes=turn_bytes,
            answer_bytes=answer_bytes,
        )
        self._states: dict[_Shape, EnvState] = {}
        self._places: dict[int, tuple[_Shape, AnyItem]] = {}

    @property
    def running(self) -> frozenset[int]:
        """Rows whose episode goes on."""
        return frozenset(self._places)

    def start(self, row: int, item: AnyItem) -> Opening:
        """A fresh episode in a row; one that stood there is dropped.

        Raises:
          ValueError: an item that cannot be used, or no such row.
        """
        if not 0 <= row < self.rows:
            raise ValueError(f"no row {row}; there are {self.rows}")
        shape, question, count = self._lay_out(item)
        state = self._states.get(shape)
        if state is None:
            state = _blank(self.environment, shape, self.rows)
        self._states[shape], shown_OhwC = _begin(self.environment, state, question, row)
        self._places[row] = shape, item
        images = tuple(np.array(image) for image in np.asarray(shown_OhwC)[:count])
        return Opening(item.question, images, final=self.max_turns == 1 or self.max_calls < 1)

    def drop(self, row: int) -> None:
        """Ends a row's episode without a result."""
        self._places.pop(row, None)

    def step(self, turns: Mapping[int, str | bytes]) -> dict[int, Reply]:
        """Carries out a turn of each row that is named; the others stand still.

        Args:
          turns: any text or bytes at all, by row.

        Raises:
          ValueError: a row whose episode is over or was never begun.
        """
        idle = sorted(set(turns) - self.running)
        if idle:
            raise ValueError(f"no episode goes on in row {idle[0]}; start one")
        batches: dict[_Shape, dict[int, bytes]] = {}
        for row, turn in turns.items():
            raw = turn.encode(errors="surrogatepass") if isinstance(turn, str) else turn
            batches.setdefault(self._places[row][0], {})[row] = raw
        replies: dict[int, Reply] = {}
        for shape, batch in batches.items():
            replies |= self._step(shape, batch)
        return {row: replies[row] for row in turns}

    def _step(self, shape: _Shape, turns: Mapping[int, bytes]) -> dict[int, Reply]:
        environment, state = self.environment, self._states[shape]
        kept = environment.turn_bytes + 1
        turns = {row: turn[-kept:] for row, turn in turns.items()}
        tokens_BT = np.zeros((self.rows, kept), np.int32)
        length_B, here_B = np.zeros(self.rows, np.int32), np.zeros(self.rows, bool)
        for row, turn in turns.items():
            tokens_BT[row, : len(turn)] = np.frombuffer(turn, np.uint8)
            length_B[row], here_B[row] = len(turn), True
        parsed, asks_B = _read(environment, state, tokens_BT, length_B, here_B)
        words = None
        if environment.host_tools:
            every = [turns.get(row, b"") for row in range(self.rows)]
            run = functools.partial(run_batch, workers=self._workers)
            words = answer_calls(environment, ByteTokenizer(), state, every, np.asarray(asks_B), run)
        new_state, told = _advance(environment, state, parsed, here_B, words)
        self._states[shape] = new_state.replace(bank=state.bank)
        told = jax.device_get(told)
        return {row: self._reply(row, told) for row in turns}

    def _reply(self, row: int, told: dict[str, Any]) -> Reply:
        parsed: ParsedTurn = told["parsed"]
        slot, tool = int(told["slot_B"][row]), int(parsed.tool_B[row])
        done = bool(told["done_B"][row])
        answer, correct = None, None
        if done:
            _, item = self._places.pop(row)
            raw = told["answer_BN"][row, : told["answer_length_B"][row]].tobytes()
            answer, said = raw.decode(errors="replace"), normalise(raw)
            correct = bool(said) and said == normalise(item.answer)
        return Reply(
            text=ByteTokenizer().decode(told["tokens_BW"][row][told["valid_BW"][row]]),
            image=None if slot < 0 else np.array(told["shown_BhwC"][row]),
            image_index=None if slot < 0 else slot,
            kind=Kind(int(parsed.kind_B[row])),
            tool="" if tool < 0 else self.environment.tools[tool].name,
            fault=Fault(int(parsed.fault_B[row])),
            well_formed=bool(parsed.well_formed_B[row]),
            final=bool(told["final_B"][row]) and not done,
            done=done,
            truncated=bool(told["truncated_B"][row]),
            answer=answer,
            correct=correct,
        )

    def _lay_out(self, item: AnyItem) -> tuple[_Shape, Question, int]:
        """The item's images as a bank of one prompt."""
        from medvista_jax.data.files.canvas import CANVAS_BUCKETS, choose_canvas, lay_on_canvas  # late: above this room

        pictures = pictures_of(item)
        slots = 1 << (len(pictures) - 1).bit_length()  # few programs for any number of images
        size = choose_canvas(pictures, self._buckets or CANVAS_BUCKETS)
        canvas = lay_on_canvas(pictures, size, slots=slots)
        pixels_OYXC = canvas.pixels_OYXC
        used_O1 = np.arange(slots)[:, None] < canvas.count
        bank = ImageBank.of(
            pixels_OYXC[None],
            canvas.window_O2[None],
            np.array([canvas.count], np.int32),
            np.where(used_O1, canvas.size_O2, size).astype(np.int32)[None],
            canvas.spacing_O2[None],
            canvas.rescale_O2[None],
        )
        shape = _Shape(*size, slots, pixels_OYXC.shape[3], pixels_OYXC.dtype.name)
        return shape, _question(bank, self.max_turns, self.max_calls, self.max_images), canvas.count


def _question(bank: ImageBank, turns: int, calls: int, images: int) -> Question:
    """Budgets and images; the prompt is the caller's affair."""
    prompts = bank.window_PO2.shape[0]
    none_P0 = np.zeros((prompts, 0), np.int32)
    budget = lambda most: np.full(prompts, most, np.int32)  # noqa: E731
    return Question(none_P0, none_P0.astype(bool), none_P0, bank, budget(turns), budget(calls), budget(images))


def _blank(environment: Environment, shape: _Shape, rows: int) -> EnvState:
    """A state whose rows are all done."""
    pixels_POYXC = np.zeros((rows, shape.originals, shape.rows, shape.columns, shape.channels), shape.dtype)
    window_PO2 = np.tile(np.array([0, 1], np.float32), (rows, shape.originals, 1))
    return reset(environment, jax.tree.map(jnp.asarray, _question(ImageBank.of(pixels_POYXC, window_PO2), 0, 0, 0)), 1)


@jax.jit
def _begin(environment: Environment, state: EnvState, question: Question, row: Array) -> tuple[EnvState, Array]:
    """Writes one fresh episode into a row; what the policy sees of its originals: uint8 ``[O, h, w, C]``."""
    fresh = reset(environment, question, 1)
    new_state = jax.tree.map(lambda old, new: old.at[row].set(new[0]), state, fresh)
    return new_state, render_originals(environment, question.bank)[0]


@jax.jit
def _read(
    environment: Environment, state: EnvState, tokens_BT: Array, length_B: Array, here_B: Array
) -> tuple[ParsedTurn, Array]:
    """The turns as understood, and which rows ask a host tool."""
    parsed = read(environment, tokens_BT, length_B)
    return parsed, asks_host(environment, state, parsed) & here_B


@jax.jit
def _advance(
    environment: Environment, state: EnvState, parsed: ParsedTurn, here_B: Array, words: HostWords | None
) -> tuple[EnvState, dict[str, Any]]:
    """The turn of the rows that are here; rows that wait stay as they are, as if they were done.

    The state comes without its bank, which never changes: as a result it would be copied.
    """
    held = state.replace(done_B=state.done_B | ~here_B)
    new_state, seen = act(environment, held, parsed, words)
    new_state = new_state.replace(done_B=jnp.where(here_B, new_state.done_B, state.done_B))

    def render_new() -> Array:
        return render_views(environment, new_state.bank, new_state.views, seen.slot_B)

    shown = jax.eval_shape(render_new)
    out_of_calls_B = new_state.calls_B >= new_state.max_calls_B
    return new_state.replace(bank=None), {
        "parsed": seen.parsed,
        "tokens_BW": seen.tokens_BW,
        "valid_BW": seen.valid_BW & (seen.feature_BW < 0),
        "slot_B": seen.slot_B,
        "shown_BhwC": jax.lax.cond(jnp.any(seen.slot_B >= 0), render_new, lambda: jnp.zeros(shown.shape, shown.dtype)),
        "final_B": (new_state.turns_B + 1 >= new_state.max_turns_B) | out_of_calls_B,
        "done_B": new_state.done_B,
        "truncated_B": new_state.truncated_B,
        "answer_BN": new_state.answer_BN,
        "answer_length_B": new_state.answer_length_B,
    }
