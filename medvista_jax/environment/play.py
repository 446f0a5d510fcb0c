"""A chat endpoint plays questions: as many episodes at a time as asked for, kept as they finish.

Requests wait in threads; the gym belongs to the main one, which steps together whatever rows have a turn. A finished
episode is a line of ``episodes.jsonl`` and its images are PNG files beside it, so that a run that was stopped goes on.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from medvista_jax.core.types import Fault, Kind
from medvista_jax.environment.chat_endpoint import ChatEndpoint, Completion, EndpointError, RequestFailed
from medvista_jax.environment.conversation import Conversation, converse, png
from medvista_jax.environment.episodes import Episodes, Reply
from medvista_jax.environment.items import AnyItem

MOST_FAILURES = 5
"""Items in a row whose requests failed, after which a run gives up."""

Record = dict[str, Any]


class RecordError(Exception):
    """A folder of records that cannot be used."""


@dataclasses.dataclass
class Game:
    """One episode with the endpoint.

    Attributes:
      said, heard: the turns in our words, and what came of each.
    """

    item: AnyItem
    conversation: Conversation
    calls: list[dict[str, str]] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)
    finish_reasons: list[str] = dataclasses.field(default_factory=list)
    said: list[str] = dataclasses.field(default_factory=list)
    heard: list[Reply] = dataclasses.field(default_factory=list)
    usage: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    turns: int = 0
    attempts: int = 0
    seconds: float = 0.0

    def read(self, completion: Completion) -> str:
        """The turn for the gym."""
        self.turns += 1
        self.attempts += completion.attempts
        self.seconds += completion.seconds
        self.usage.update(completion.usage)
        self.finish_reasons.append(completion.finish_reason)
        self.said.append(self.conversation.read(completion.message))
        return self.said[-1]

    def tell(self, reply: Reply) -> None:
        """What came of it."""
        self.heard.append(reply)
        if reply.kind == Kind.CALL:
            self.calls.append({"tool": reply.tool, "fault": reply.fault.name.lower()})
        if reply.fault != Fault.NONE:
            self.faults.append(reply.fault.name.lower())
        if not reply.done:
            self.conversation.tell(reply)


class Keeper(Protocol):
    """Where finished episodes go."""

    def add(self, game: Game, reply: Reply) -> Any:
        """Keeps one; what it gives back is handed to ``heard``."""
        ...


class Records:
    """``OUT/episodes.jsonl`` and ``OUT/images``; ``OUT/setting.json`` says what the run is.

    Args:
      folder: made where it is missing.
      setting: what must be the same for a run to go on.
      resume: go on with what is there.

    Raises:
      RecordError: the folder holds episodes and ``resume`` is off, or those of another setting, or a broken file.
    """

    def __init__(self, folder: Path, setting: Mapping[str, Any], resume: bool = False) -> None:
        self.folder, self._file = folder, folder / "episodes.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self.kept: list[Record] = self._load() if self._file.exists() else []
        if self.kept and not resume:
            raise RecordError(
                f"{self._file} holds {len(self.kept)} finished episodes: go on with --resume, or name another --out"
            )
        before = folder / "setting.json"
        if self.kept and before.exists():
            _compare(json.loads(before.read_text(encoding="utf-8")), json.loads(json.dumps(setting)), before)
        before.write_text(json.dumps(setting, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def _load(self) -> list[Record]:
        raw = self._file.read_bytes()
        *lines, torn = raw.split(b"\n")
        if torn:  # the run was stopped while it wrote the line
            self._file.write_bytes(raw[: len(raw) - len(torn)])
        records = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                records.append({**record, "item": record["item"], "correct": bool(record["correct"])})
            except (ValueError, LookupError, TypeError):
                raise RecordError(f"{self._file}, line {number} is no episode; mend or remove it") from None
        return records

    def add(self, game: Game, reply: Reply) -> Record:
        """Keeps a finished episode."""
        name = re.sub(r"[^\w.-]+", "_", game.item.id)[:80] or "item"
        place = Path("images") / f"{len(self.kept):06d}_{name}"
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        files = [str(place / f"{index}.png") for index in range(len(game.conversation.images))]
        for file, image in zip(files, game.conversation.images, strict=True):
            (self.folder / file).write_bytes(png(image))
        record: Record = {
            "item": game.item.id,
            "question": game.item.question,
            "options": list(getattr(game.item, "options", ())),
            "key": game.item.answer,
            "answer": reply.answer,
            "correct": bool(reply.correct),
            "truncated": reply.truncated,
            "turns": game.turns,
            "calls": game.calls,
            "faults": game.faults,
            "finish_reasons": game.finish_reasons,
            "usage": dict(game.usage),
            "seconds": round(game.seconds, 3),
            "attempts": game.attempts,
            "images": files,
            "messages": _without_pixels(game.conversation.messages, files),
        }
        with self._file.open("a", encoding="utf-8") as out:
            # ASCII: what a model writes may be no Unicode that UTF-8 could hold
            out.write(json.dumps(record) + "\n")
        self.kept.append(record)
        return record


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], file: Path) -> None:
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise RecordError(
                f"{file}: the episodes there were played with {key} = {before.get(key)!r}, not {now.get(key)!r}; "
                "name another --out, or the same options"
            )


def _without_pixels(messages: Sequence[Mapping[str, Any]], files: Sequence[str]) -> list[Any]:
    """The messages with file names in the place of images, which stand in them in the order of their indices."""
    left = iter(files)

    def part(value: Any) -> Any:
        if isinstance(value, dict) and value.get("type") == "image_url":
            return {"type": "image_url", "image_url": {"url": next(left)}}
        return value

    def message(value: Mapping[str, Any]) -> dict[str, Any]:
        user = value["role"] == "user" and isinstance(value["content"], list)
        return {**value, "content": [part(one) for one in value["content"]]} if user else dict(value)

    return [message(value) for value in messages]


@dataclasses.dataclass
class Outcome:
    """How a run ended. ``failed``: item and reason; they are not kept, so that another run tries them again."""

    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    stopped: bool = False


class Table:
    """The rows of the gym with an endpoint behind each.

    Args:
      episodes: their rows are the episodes at a time.
      endpoint, dialect: see :mod:`~medvista_jax.environment.chat_endpoint` and
        :func:`medvista_jax.environment.conversation.converse`.
      records: where finished ones go.
      heard: told of each finished record, or of an item that failed and why.
      stop: asked between steps whether to stop.
    """

    def __init__(
        self,
        episodes: Episodes,
        endpoint: ChatEndpoint,
        dialect: str,
        records: Keeper,
        heard: Callable[[Any, str], None] = lambda record, failure: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._episodes, self._endpoint, self._dialect = episodes, endpoint, dialect
        self._records, self._heard, self._stop = records, heard, stop
        self._games: dict[int, Game] = {}
        self._inbox: queue.SimpleQueue[tuple[int, Game, Completion | Exception]] = queue.SimpleQueue()
        self.outcome = Outcome()
        self._in_a_row = 0

    def play(self, items: Sequence[AnyItem], places: Sequence[int]) -> Outcome:
        """Plays the items at ``places``.

        Raises:
          EndpointError: no further request can succeed; what has finished is kept.
        """
        left = collections.deque(places)
        try:
            while (left or self._games) and not self._stop():
                while left and len(self._games) < self._episodes.rows:
                    self._begin(items[left.popleft()])
                if self._games:
                    self._take(self._arrived())
        finally:
            self._endpoint.stopped.set()  # requests that are under way end as daemons
        self.outcome.stopped = bool(left or self._games)
        return self.outcome

    def _begin(self, item: AnyItem) -> None:
        row = next(row for row in range(self._episodes.rows) if row not in self._games)
        try:
            opening = self._episodes.start(row, item)
        except ValueError as error:  # a file that is no image, too many channels …
            self.outcome.failed.append((item.id, str(error)))
            self._heard(None, f"{item.id}: {error}")
            return
        specs = [tool.spec for tool in self._episodes.tools]
        self._games[row] = Game(item, converse(self._dialect, opening, specs))
        self._ask(row)

    def _ask(self, row: int) -> None:
        game = self._games[row]
        messages, body = list(game.conversation.messages), game.conversation.request()

        def request() -> None:
            try:
                self._inbox.put((row, game, self._endpoint.complete(messages, **body)))
            except Exception as error:  # whatever it is, the main thread must hear of it or wait for ever
                self._inbox.put((row, game, error))

        threading.Thread(target=request, name=f"request of row {row}", daemon=True).start()

    def _arrived(self) -> list[tuple[int, Game, Completion | Exception]]:
        """All that has come; waits a little for the first, so that a stop is noticed."""
        try:
            arrived = [self._inbox.get(timeout=0.2)]
        except queue.Empty:
            return []
        time.sleep(0.005)  # rows that come together are stepped together
        while not self._inbox.empty():
            arrived.append(self._inbox.get())
        return arrived

    def _take(self, arrived: Sequence[tuple[int, Game, Completion | Exception]]) -> None:
        turns: dict[int, str] = {}
        fatal: Exception | None = None
        for row, game, result in arrived:
            if isinstance(result, Completion):
                turns[row] = game.read(result)
                continue
            if not isinstance(result, RequestFailed):
                fatal = result
            self._episodes.drop(row)
            del self._games[row]
            if isinstance(result, RequestFailed):
                self._fail(game.item.id, str(result))
        for row, reply in self._episodes.step(turns).items():
            game = self._games[row]
            game.tell(reply)
            if not reply.done:
                self._ask(row)
                continue
            self._in_a_row = 0
            del self._games[row]
            self._heard(self._records.add(game, reply), "")
        if fatal is not None:
            raise fatal

    def _fail(self, item: str, why: str) -> None:
        """The endpoint's fault; a server that is down for good must not be asked about every item."""
        self.outcome.failed.append((item, why))
        self._heard(None, f"{item}: {why}")
        self._in_a_row += 1
        if self._in_a_row >= MOST_FAILURES:
            raise EndpointError(f"{self._in_a_row} items failed one after the other, the last one: {why}")
