"""Episodes in plain text as records: those of chat endpoints and of scripted teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvista_jax.core.types import Fault, Kind
from medvista_jax.data.trajectories.files import encode_pixels
from medvista_jax.data.trajectories.played import images_of, tool_entries
from medvista_jax.data.trajectories.record import HostWord, ImageRef, Observation, Outcome, Record, Source, Turn
from medvista_jax.environment.episodes import Episodes, Reply
from medvista_jax.text.chat import FINAL_TEXT
from medvista_jax.tools.host.call import HostTool


def record_of(
    episodes: Episodes, item: Any, said: Sequence[str], heard: Sequence[Reply], source: Source, split: str = ""
) -> Record:
    """A finished episode.

    Args:
      said: the turns as the gym read them.
      heard: what came of each.
    """
    hosts = {tool.name for tool in episodes.tools if isinstance(tool, HostTool)}
    end = heard[-1]
    turns = []
    for text, reply in zip(said, heard, strict=True):
        seen, host = None, None
        if not reply.done:
            image = None if reply.image is None else ImageRef(data=encode_pixels(reply.image))
            seen = Observation(reply.text, image)
            if reply.kind == Kind.CALL and reply.tool in hosts and reply.fault == Fault.NONE:
                host = HostWord(reply.tool, reply.text.removesuffix(FINAL_TEXT if reply.final else ""))
        turns.append(Turn(text, fault=reply.fault.name, observation=seen, host=host))
    return Record(
        id=item.id,
        question=item.question,
        images=images_of(item),
        source=source,
        answer=item.answer,
        options=tuple(getattr(item, "options", ())),
        family=getattr(item, "family", ""),
        needs=getattr(item, "needs", ""),
        targets=tuple(tuple(map(float, box)) for box in getattr(item, "targets", ())),
        split=split,
        tools=tool_entries(episodes.tools),
        turns=tuple(turns),
        outcome=Outcome(
            answer=end.answer or "",
            correct=bool(end.correct),
            well_formed=all(reply.well_formed for reply in heard) and not end.truncated,
            truncated=end.truncated,
        ),
    )


def play_scripts(
    episodes: Episodes, items: Sequence[Any], scripts: Sequence[Sequence[str]]
) -> list[tuple[list[str], list[Reply]]]:
    """Turns as given, row by row side by side; what was said of each and what came of it.

    Raises:
      ValueError: more items than rows.
    """
    if len(items) > episodes.rows:
        raise ValueError(f"{len(items)} scripts for {episodes.rows} rows")
    for row, item in enumerate(items):
        episodes.start(row, item)
    played: list[tuple[list[str], list[Reply]]] = [([], []) for _ in items]
    for turn in range(max(map(len, scripts), default=0)):
        said = {
            row: script[turn] for row, script in enumerate(scripts) if turn < len(script) and row in episodes.running
        }
        for row, reply in episodes.step(said).items():
            played[row][0].append(said[row])
            played[row][1].append(reply)
    for row in range(len(items)):
        episodes.drop(row)
    return played
