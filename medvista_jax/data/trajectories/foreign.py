"""Conversations of other projects as records: what the formats have in common.

A conversation becomes one question with its images, then turns of the assistant, each with what came back. Calls are
converted by :mod:`medvista_jax.text.dialects`. Rows that would teach something wrong are rejected, with the reason;
what is lost or changed on the way is noted in the record.
"""

from __future__ import annotations

import base64
import binascii
import collections
import dataclasses
import json
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from medvista_jax.core.types import Fault, Kind
from medvista_jax.data.files import BadFile
from medvista_jax.data.trajectories.record import ImageRef, Observation, Outcome, Record, Source, Turn
from medvista_jax.text import dialects
from medvista_jax.text.dialects import (
    IMAGE,
    Context,
    Picture,
    canonical,
    deepeyes,
    openai,
    openthinkimg,
    ophiuchus,
    pixel_reasoner,
    qwen3vl,
)
from medvista_jax.text.host_parser import parse_turn_text
from medvista_jax.text.normalise import normalise
from medvista_jax.tools.registry import ALL_TOOLS

SPECS = tuple(tool.spec for tool in ALL_TOOLS.values())

ZOOMS: Mapping[str, str] = {
    "deepeyes": deepeyes.TOOL,
    "qwen3-vl": qwen3vl.TOOL,
    "pixel-reasoner": pixel_reasoner.TOOL,
    "openthinkimg": openthinkimg.TOOL,
    "ophiuchus": ophiuchus.TOOL,
    "verl": deepeyes.TOOL,
}
"""What our ``zoom_in`` is called in a dialect's list of tools; DeepEyes is trained with verl."""

_BOXED = "\\boxed{"
_RESPONSE = re.compile(r"</?tool_response>")


class Rejected(ValueError):
    """A row that is no trajectory to learn from. The message is one short line, so that equal ones can be counted."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How rows are read.

    Attributes:
      dialect: in which words the assistant calls tools: "openai" is ``tool_calls``, and our own tags; see
        ``text.dialects``.
      answers: "tags" wants ``<answer>…</answer>`` in the last turn; "last" takes a last turn without a call for the
        answer (of ``\\boxed{…}`` what is inside).
      folder: of the images' paths.
      family, split: of the questions; the row's own, where it has one.
      offered: tools to put into the prompt; None takes those that the row offers.
    """

    dialect: str = "openai"
    answers: Literal["tags", "last"] = "last"
    folder: Path = Path()
    family: str = ""
    split: str = ""
    offered: tuple[str, ...] | None = None


@dataclasses.dataclass
class Message:
    """One message, roles and images made uniform: "system", "user", "assistant" or "tool"; images stand in the text as
    ``<image>``."""

    role: str
    text: str = ""
    calls: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Conversation:
    """A row, made uniform.

    Attributes:
      images: in the order of their marks in the messages.
      tools: schemas or names.
    """

    id: str
    messages: list[Message]
    images: list[ImageRef]
    answer: str | None = None
    options: tuple[str, ...] = ()
    family: str = ""
    split: str = ""
    tools: tuple[Any, ...] = ()
    notes: list[str] = dataclasses.field(default_factory=list)


def read_images(cell: Any, folder: Path) -> list[ImageRef]:
    """The images of a cell: a path, bytes, an address with the data inside, ``{"bytes", "path"}``, or a list of them.

    Raises:
      Rejected: something else, an address on the web, or a file that is missing.
    """
    if cell is None or cell == "":
        return []
    cells = cell if isinstance(cell, list | tuple) else [cell]
    return [_image(one, folder) for one in cells]


def _image(cell: Any, folder: Path) -> ImageRef:
    if isinstance(cell, Mapping):
        inside = cell.get("bytes")
        if inside is None:
            inside = next((cell[key] for key in ("path", "url", "image") if cell.get(key)), None)
        if inside is None:
            raise Rejected("an image without bytes and without a path")
        cell = inside
    if isinstance(cell, bytes | bytearray):
        return ImageRef(data=bytes(cell))
    if not isinstance(cell, str) or not cell.strip():
        raise Rejected(f"an image given as {type(cell).__name__}, not as a path or bytes")
    if cell.startswith("data:"):
        try:
            return ImageRef(data=base64.b64decode(cell.partition(",")[2], validate=True))
        except (binascii.Error, ValueError):
            raise Rejected("an image whose base64 is damaged") from None
    if cell.startswith(("http://", "https://")):
        raise Rejected("an image that is an address on the web; fetch it and name its file")
    path = folder / (urllib.parse.unquote(cell[7:]) if cell.startswith("file://") else cell)
    if not path.is_file():
        raise Rejected("an image whose file is missing")
    return ImageRef(str(path))


def parse_json(cell: Any, what: str) -> Any:
    """A cell that may hold JSON as text, as parquet columns do.

    Raises:
      Rejected: text that is no JSON.
    """
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise Rejected(f"{what} that are no JSON") from None


def tools_of(cell: Any, dialect: str) -> tuple[Any, ...]:
    """Offered tools as records name them: ours by name, others by their schema.

    The zoom of a dialect becomes ours, as its calls do.
    """
    entries = parse_json(cell, "tools") or []
    entries = entries if isinstance(entries, list) else [entries]
    out: list[Any] = []
    for entry in entries:
        function = entry.get("function", entry) if isinstance(entry, Mapping) else {"name": entry}
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise Rejected("tools without a name")
        ours = canonical.ZOOM if name == ZOOMS.get(dialect) else name
        whole = {"type": "function", "function": dict(function)} if "parameters" in function else None
        one = ours if ours in ALL_TOOLS else whole
        if one is not None and one not in out:
            out.append(one)
    return tuple(out)


def to_record(conversation: Conversation, reading: Reading, source: Source) -> Record:
    """The conversation as a trajectory.

    Raises:
      Rejected: see the messages.
    """
    system, question, rest = _opening(conversation)
    images = _Images(conversation)
    question, originals = images.of_question(question)
    turns = _turns(rest, images, originals, reading, conversation.notes)
    if images.left:
        raise Rejected(f"more images than {IMAGE} marks")
    record = Record(
        id=conversation.id,
        question=question,
        images=tuple(originals),
        source=dataclasses.replace(source, dialect=reading.dialect),
        answer=conversation.answer,
        options=conversation.options,
        family=conversation.family or reading.family,
        split=conversation.split or reading.split,
        tools=conversation.tools if reading.offered is None else reading.offered,
        system=system,
        turns=tuple(turns),
        outcome=_outcome(turns, conversation.answer),
    )
    return dataclasses.replace(record, notes=tuple(dict.fromkeys(conversation.notes)))


def _opening(conversation: Conversation) -> tuple[str, str, list[Message]]:
    """System message, question, and what follows."""
    messages = list(conversation.messages)
    system = ""
    while messages and messages[0].role == "system":
        system = "\n".join(part for part in (system, messages.pop(0).text) if part)
    asked = []
    while messages and messages[0].role == "user":
        asked.append(messages.pop(0).text)
    if not asked:
        raise Rejected("no question of the user at the beginning")
    if any(message.role == "system" for message in messages):
        raise Rejected("a system message in the middle")
    if not messages:
        raise Rejected("no turn of the assistant")
    if messages[0].role != "assistant":
        raise Rejected("a tool's result before any turn of the assistant")
    if messages[-1].role != "assistant":
        raise Rejected("ends with a message that nobody answers")
    return system, "\n".join(asked), messages


class _Images:
    """Hands out a row's images by their marks."""

    def __init__(self, conversation: Conversation) -> None:
        marks = sum(message.text.count(IMAGE) for message in conversation.messages)
        self.left = list(conversation.images)
        self._notes = conversation.notes
        self._unmarked = marks == 0 and bool(self.left)
        if marks > len(self.left):
            raise Rejected(f"fewer images than {IMAGE} marks")

    def of_question(self, text: str) -> tuple[str, list[ImageRef]]:
        """The question without its marks, and its images."""
        count = len(self.left) if self._unmarked else text.count(IMAGE)
        images, self.left = self.left[:count], self.left[count:]
        return without_marks(text, images, self._notes), images

    def of_result(self, text: str) -> ImageRef | None:
        """The image that came back."""
        count = text.count(IMAGE)
        if count > 1:
            raise Rejected("several images come back after one turn")
        return self.left.pop(0) if count else None


def without_marks(text: str, images: Sequence[ImageRef], notes: list[str]) -> str:
    """A question without the marks of its images, which stand before it; one amid the words becomes a number.

    Raises:
      Rejected: there is no image.
    """
    if not images:
        raise Rejected("a question without an image")
    if IMAGE not in text:
        notes.append("no mark says where the images stand: they are the question's")
    begin = re.match(rf"(?:\s*{IMAGE})*", text).end()
    end = max(begin, re.search(rf"(?:{IMAGE}\s*)*$", text).start())
    inside = text[begin:end]
    if IMAGE in inside:
        notes.append("marks of images amid the question become their numbers")
        numbers = iter(range(text[:begin].count(IMAGE), len(images)))
        inside = re.sub(IMAGE, lambda _: f"(image {next(numbers)})", inside)
    return inside.strip()


def _turns(
    messages: Sequence[Message], images: _Images, originals: Sequence[ImageRef], reading: Reading, notes: list[str]
) -> list[Turn]:
    context = Context(tuple(map(_picture, originals)), SPECS, len(originals))
    turns: list[Turn] = []
    left = collections.deque(messages)
    while left:
        said = Message("assistant")
        while left and left[0].role == "assistant":
            more = left.popleft()
            said.text = "\n".join(part for part in (said.text, more.text) if part)
            said.calls += more.calls
        results = []
        while left and left[0].role != "assistant":
            results.append(left.popleft())
        turn = _turn(said, context, reading, not left and not results, notes)
        parsed = parse_turn_text(SPECS, turn.encode(errors="replace"))
        _check(parsed, bool(results), notes)
        if not results:
            turns.append(Turn(turn))
            continue
        text = "\n".join(message.text for message in results if message.text)
        image = images.of_result(text)
        seen = _result(text, results, context, reading)
        turns.append(Turn(turn, observation=Observation(seen, image)))
        if image is not None:
            context = context.add(_view(image, turn, context))
    return turns


def _turn(said: Message, context: Context, reading: Reading, last: bool, notes: list[str]) -> str:
    """The assistant's turn in our words."""
    if IMAGE in said.text:
        raise Rejected(f"the assistant writes {IMAGE}: an image in what carries loss")
    if reading.dialect == "openai":
        found = openai.read_message({"content": said.text, "tool_calls": said.calls}, context)
    else:
        blocks = [f"<tool_call>{json.dumps(call.get('function', call))}</tool_call>" for call in said.calls]
        found = dialects.get(reading.dialect).read_turn("\n".join([said.text, *blocks]).strip(), context)
    kind = parse_turn_text(context.specs, found.turn.encode(errors="replace")).kind
    if kind != Kind.NOTHING or not last:
        notes.extend(found.notes)
        return found.turn
    if reading.answers == "tags":
        raise Rejected("the last turn has no <answer>")
    think, closed, answer = said.text.rpartition("</think>")
    answer = boxed(answer) or answer
    if not normalise(answer):
        raise Rejected("the last turn is empty")
    notes.append("the last turn, without a call, is taken for the answer")
    return canonical.compose(canonical.thought(think + closed) if closed else "", answer=answer.strip())


def boxed(text: str) -> str | None:
    """What the last ``\\boxed{…}`` holds; None without one."""
    start = text.rfind(_BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOXED)
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at]
    return None


def _check(parsed: Any, more: bool, notes: list[str]) -> None:
    """Refuses turns that nobody should learn."""
    if parsed.kind == Kind.ANSWER and more:
        raise Rejected("goes on after an answer: several questions in one conversation")
    if parsed.kind == Kind.NOTHING and more:
        raise Rejected("a turn that neither calls nor answers, in the middle")
    if parsed.kind == Kind.CALL and not more:
        raise Rejected("ends with a call")
    if parsed.fault == Fault.MALFORMED:
        raise Rejected("a call that is no JSON")
    if parsed.kind == Kind.CALL and parsed.fault != Fault.NONE:
        notes.append(f"a call that our environment would refuse: {parsed.fault.name.lower().replace('_', ' ')}")
    if not parsed.well_formed:
        notes.append("a turn that is not thoughts and one action")


def _result(text: str, results: Sequence[Message], context: Context, reading: Reading) -> str:
    """What came back, in our words."""
    shown = IMAGE in text
    if reading.dialect == "openai" or all(message.role == "tool" for message in results):
        bare = _RESPONSE.sub("", text.replace(IMAGE, ""))
        return canonical.words(canonical.observed(" ".join(bare.split()), shown, context))
    return canonical.words(dialects.get(reading.dialect).read_observation(text, context))


def _picture(image: ImageRef) -> Picture:
    try:
        height, width = image.load().pixels_YXC.shape[:2]
    except BadFile:
        raise Rejected("an image that cannot be read") from None
    return Picture(width, height)


def _view(image: ImageRef, turn: str, context: Context) -> Picture:
    """A returned image, with its place in the one it was cut from where the turn says so."""
    picture = _picture(image)
    zoom = canonical.take_apart(turn, context).zoom
    if zoom is None or not context.has(zoom[1]):
        return picture
    return dataclasses.replace(picture, source=zoom[1], box=tuple(map(float, zoom[0])))


def _outcome(turns: Sequence[Turn], truth: str | None) -> Outcome:
    parsed = [parse_turn_text(SPECS, turn.text.encode(errors="replace")) for turn in turns]
    ends = parsed[-1].kind == Kind.ANSWER
    answer = parsed[-1].answer if ends else b""
    return Outcome(
        answer=answer.decode(errors="replace"),
        correct=None if truth is None else bool(normalise(answer)) and normalise(answer) == normalise(truth),
        well_formed=ends and all(one.well_formed for one in parsed),
        truncated=not ends,
    )


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of JSON lines, a JSON array or parquet, with their numbers from 1; parquet a row group at a time.

    Raises:
      BadFile: no such file, or one that is none of these.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8-sig"))
            if not isinstance(content, list):
                raise BadFile(f"{path}: an array of JSON objects is wanted; if each line is one, name it .jsonl")
            yield from enumerate(content, 1)
        elif suffix == ".jsonl":
            with open(path, encoding="utf-8-sig") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield number, _json_line(line)
        else:
            raise BadFile(f"{path}: is none of .jsonl, .json and .parquet")
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise BadFile(f"{path}: is no JSON: {error}; if each line is an object, name it .jsonl") from None
    except UnicodeDecodeError as error:
        raise BadFile(f"{path}: is no UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _json_line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pa.ArrowException as error:
        raise BadFile(f"{path}: is no sound parquet file: {' '.join(str(error).split())}") from None


def text_of(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of the named values that holds text or a number; None without one."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            return str(value)
    return None
