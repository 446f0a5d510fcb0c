"""A trajectory as a record: what is kept of an episode, and its form as a JSON object.

The JSON of every class has the names of its attributes; what has its default value is left out. The one exception is
``feature``: runs ``[[at, first, count], …]`` say that the ids from ``at`` on stand for the embeddings ``first``,
``first + 1``, … of the record's images.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medvista_jax.core.types import Fault
from medvista_jax.data.files import BadFile, MedicalImage, load_images
from medvista_jax.data.files.questions import FileItem

Runs = tuple[tuple[int, int, int], ...]


class BadRecord(ValueError):
    """A JSON object that is no record: which part, and what is wanted there."""


@dataclasses.dataclass(frozen=True)
class ImageRef:
    """One image of a record, as a file or as the bytes of one: anything that :func:`data.files.load_images` reads.

    Attributes:
      file: in JSON relative to the folder of the trajectory file; a record that was read has the whole path.
      data: the file itself, in JSON as base64; None where ``file`` names it.
      window: (black, white) in stored units; None leaves it to the file.
      rescale: (slope, intercept), ``physical = stored * slope + intercept``; None leaves it to the file.
      spacing: (row, column) millimetres; None leaves it to the file.
    """

    file: str = ""
    data: bytes | None = None
    window: tuple[float, float] | None = None
    rescale: tuple[float, float] | None = None
    spacing: tuple[float, float] | None = None

    def load(self) -> MedicalImage:
        """The image.

        Raises:
          BadFile: missing, damaged or of an unknown kind.
        """
        image = load_images(self.data if self.data is not None else self.file, name=self.file or None)[0]
        known = {name: getattr(self, name) for name in ("window", "rescale", "spacing")}
        return dataclasses.replace(image, **{name: value for name, value in known.items() if value is not None})


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The exact ids of a prompt and what they stand for, where they are known."""

    ids: tuple[int, ...]
    feature: Runs = ()


@dataclasses.dataclass(frozen=True)
class HostWord:
    """What a host tool replied, before it was cut to the room that it has: a replay hands it back."""

    tool: str
    text: str
    fault: str = Fault.NONE.name


@dataclasses.dataclass(frozen=True)
class Observation:
    """What the environment said after a turn. It carries no loss.

    Attributes:
      text: what stands inside the tool response, in our words, without the image.
      image: the returned image as the policy saw it. Its index is the count of the record's images before it.
      ids, feature: exactly what the model read, frame of the chat template included; None where unknown.
    """

    text: str = ""
    image: ImageRef | None = None
    ids: tuple[int, ...] | None = None
    feature: Runs = ()


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the policy said, and what came of it.

    Attributes:
      text: the turn in our dialect.
      ids: exactly what was sampled; None where it was not sampled from a checkpoint of ours.
      logprobs: behaviour log-probability of each id.
      allowed: for each id the set of tokens it was drawn from, see ``core.types.Trajectory.allowed_BS``; None for all.
      fault: name of the fault that the environment found, "" where it is not known.
      observation: None after the last turn.
      host: the reply of a host tool, where one was asked.
    """

    text: str
    ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    allowed: tuple[int, ...] | None = None
    fault: str = ""
    observation: Observation | None = None
    host: HostWord | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How it ended.

    Attributes:
      answer: what was answered, "" for nothing.
      correct: None where no true answer is known.
      well_formed: every turn is, and the last one answers.
      truncated: it ended without an answer.
      reward: None where none was computed; ``terms`` are what it is made of.
    """

    answer: str = ""
    correct: bool | None = None
    well_formed: bool = False
    truncated: bool = False
    reward: float | None = None
    terms: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Source:
    """Who said it.

    Attributes:
      kind: "checkpoint", "endpoint", "teacher" or "file".
      name: folder of the checkpoint, address and model, settings of the teacher, or file and line.
      dialect: in whose words it was said before it was converted; "" for ours.
      tokenizer: :func:`fingerprint` of the vocabulary that the ids belong to; "" where there are none.
      tokens_per_image: embeddings that an image took, L; 0 where there are no ids.
      temperature: None where unknown.
      key: numbers that the randomness was made of, in the order of ``jax.random.key`` and ``fold_in``.
      row: of the batch that was played.
    """

    kind: str
    name: str = ""
    dialect: str = ""
    tokenizer: str = ""
    tokens_per_image: int = 0
    temperature: float | None = None
    key: tuple[int, ...] = ()
    row: int = 0


@dataclasses.dataclass(frozen=True)
class Record:
    """One trajectory, or with no turn a question.

    Attributes:
      id: of the question; samples of one question share it.
      question: text, without marks for its images, which stand before it.
      images: the question's own, in order.
      source: who said it.
      answer: the true one; None where it is not known.
      options, family, needs, targets, split: of the question, as ``data.item.AtlasItem`` has them.
      tools: offered ones: names of this package's, schemas (as ``ToolSpec.schema``) of others.
      system: system message that it came with; ours takes its place in a prompt.
      prompt: exact ids; None where unknown.
      turns: what was said.
      outcome: how it ended.
      notes: what was lost or changed on the way here.
    """

    id: str
    question: str
    images: tuple[ImageRef, ...]
    source: Source
    answer: str | None = None
    options: tuple[str, ...] = ()
    family: str = ""
    needs: str = ""
    targets: tuple[tuple[float, float, float, float], ...] = ()
    split: str = ""
    tools: tuple[str | Mapping[str, Any], ...] = ()
    system: str = ""
    prompt: Prompt | None = None
    turns: tuple[Turn, ...] = ()
    outcome: Outcome = Outcome()
    notes: tuple[str, ...] = ()

    def shown(self) -> tuple[ImageRef, ...]:
        """All images by their index: the question's own, then the returned ones."""
        seen = (turn.observation for turn in self.turns if turn.observation is not None)
        return (*self.images, *(one.image for one in seen if one.image is not None))

    def item(self) -> FileItem:
        """The question alone, for a :class:`medvista_jax.data.questions.QuestionPool`.

        Raises:
          ValueError: its true answer is not known.
        """
        if self.answer is None:
            raise ValueError(f"{self.id}: has no true answer, and nobody could tell whether a reply is right")
        return FileItem(
            id=self.id,
            family=self.family,
            question=self.question,
            options=self.options,
            answer=self.answer,
            answer_type="",
            source=self.source.name,
            load=functools.partial(_load_all, self.id, self.images),
            needs=self.needs,
            targets=self.targets,
        )


def _load_all(name: str, images: tuple[ImageRef, ...]) -> tuple[MedicalImage, ...]:
    try:
        return tuple(image.load() for image in images)
    except BadFile as error:
        raise BadFile(f"{name}: {error}") from None


def to_json(value: Any) -> Any:
    """A record, or a part of one, as what ``json`` writes."""
    if dataclasses.is_dataclass(value):
        out = {}
        for field in dataclasses.fields(value):
            inside = getattr(value, field.name)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                out[field.name] = to_json(inside)
            elif inside != _default(field):
                out[field.name] = to_json(inside)
        return out
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: to_json(inside) for key, inside in value.items()}
    return [to_json(inside) for inside in value] if isinstance(value, tuple | list) else value


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def from_json(value: Any, folder: Path) -> Record:
    """The record back; files of images lie in ``folder``.

    Raises:
      BadRecord: naming the part that is missing, unknown or of another type.
    """
    record = _read(Record, value, "the record")

    def placed(image: ImageRef) -> ImageRef:
        return dataclasses.replace(image, file=str(folder / image.file)) if image.file else image

    return with_images(record, placed)


def with_images(record: Record, change: typing.Callable[[ImageRef], ImageRef]) -> Record:
    """The record with every image changed."""
    turns = []
    for turn in record.turns:
        if turn.observation is not None and turn.observation.image is not None:
            seen = dataclasses.replace(turn.observation, image=change(turn.observation.image))
            turn = dataclasses.replace(turn, observation=seen)
        turns.append(turn)
    return dataclasses.replace(record, images=tuple(map(change, record.images)), turns=tuple(turns))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(wanted: Any, value: Any, where: str) -> Any:
    """``value`` as the annotated type ``wanted``."""
    origin, inside = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inside:
            return None
        fitting = [one for one in inside if one is not type(None)]
        one = fitting[0] if len(fitting) == 1 or isinstance(value, str) else fitting[-1]
        return _read(one, value, where)
    if dataclasses.is_dataclass(wanted):
        return _read_object(wanted, value, where)
    if origin is tuple:
        return _read_list(inside, value, where)
    if origin is not None:  # a Mapping
        if not isinstance(value, dict):
            raise BadRecord(f"{where}: an object is wanted, not {_show(value)}")
        return {key: _read(inside[1], one, f"{where}[{key!r}]") for key, one in value.items()}
    if wanted is bytes:
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise BadRecord(f"{where}: base64 is wanted, not {_show(value)}") from None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise BadRecord(f"{where}: {names[wanted]} is wanted, not {_show(value)}")
    return value


def _read_object(wanted: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BadRecord(f"{where}: an object is wanted, not {_show(value)}")
    hints = _hints(wanted)
    unknown = sorted(value.keys() - hints.keys())
    if unknown:
        raise BadRecord(f"{where}: {unknown[0]!r} is no part of it; its parts are {', '.join(hints)}")
    for field in dataclasses.fields(wanted):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in value:
            raise BadRecord(f"{where}: {field.name!r} is missing")
    return wanted(**{name: _read(hints[name], one, f"{where}, {name!r}") for name, one in value.items()})


def _read_list(inside: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, list):
        raise BadRecord(f"{where}: a list is wanted, not {_show(value)}")
    if inside[-1] is not Ellipsis:
        if len(value) != len(inside):
            raise BadRecord(f"{where}: {len(inside)} values are wanted, not {len(value)}")
        return tuple(_read(kind, one, where) for kind, one in zip(inside, value, strict=True))
    kind = inside[0]
    if kind in (int, float) and all(type(one) is kind for one in value):  # long lists of ids
        return tuple(value)
    return tuple(_read(kind, one, f"{where}[{at}]") for at, one in enumerate(value))


def _show(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"
