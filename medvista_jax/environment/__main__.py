"""Any chat endpoint plays.

    python -m medvista_jax.environment play --endpoint http://127.0.0.1:8000/v1 --model NAME --questions atlas

The endpoint speaks OpenAI's chat completions. With ``--dialect native`` tools are offered by their schemas and called
by ``tool_calls``; with ``text``, or the name of another project's dialect, in the words of the messages. Replies of
tools have the role "tool"; the image that a tool returns follows in a message of the user, for most servers take images
nowhere else. Of several calls in a message the last is carried out, the others are told so. An answer counts inside
<answer></answer>; the last request says that it is wanted, with tool_choice "none".

Finished episodes are kept in OUT/episodes.jsonl, their images in OUT/images, the numbers in OUT/summary.json. Exit code
0 when every item has finished, 1 when some failed (--resume tries them again), 2 when nothing can be played, 130 after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medvista_jax.environment.chat_endpoint import ChatEndpoint, EndpointError
from medvista_jax.environment.conversation import names
from medvista_jax.environment.episodes import Episodes, choose_tools
from medvista_jax.environment.items import AnyItem, find_items
from medvista_jax.environment.play import Outcome, RecordError, Records, Table
from medvista_jax.environment.play_report import as_text, summarise
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.runtime.interrupt import Interrupts
from medvista_jax.runtime.progress import Progress

ATLAS_ITEMS = 32


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="python -m medvista_jax.environment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    play = out.add_subparsers(dest="command", required=True).add_parser(
        "play",
        help="let a chat endpoint play",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    play.add_argument("--endpoint", required=True, help="address up to and with /v1")
    play.add_argument("--model", required=True, help="name for the server")
    play.add_argument("--questions", default="atlas", help='"atlas" (default), a folder or a table of questions')
    play.add_argument("--split", help='of the atlas (default "test"), or of a folder of parquet')
    play.add_argument("--items", type=int, help=f"the first so many (atlas: {ATLAS_ITEMS} by default; files: all)")
    play.add_argument("--families", help="of the atlas, with commas between")
    play.add_argument("--tools", help="names and Python files, with commas between; by default all that need nothing")
    play.add_argument("--no-tools", action="store_true", help="one turn, no tool")
    play.add_argument("--turns", type=int, default=6, help="turns of an episode, the answer included (default 6)")
    play.add_argument("--view-size", type=int, default=448, help="side of every image that is shown (default 448)")
    play.add_argument("--dialect", default="native", help='"native" (default), "text", or a dialect by name')
    play.add_argument("--out", type=Path, default=Path("runs/play"), help="folder of the records (default runs/play)")
    play.add_argument("--resume", action="store_true", help="go on with the records that are there")
    play.add_argument("--concurrency", type=int, default=8, help="episodes at a time (default 8)")
    play.add_argument("--temperature", type=float, help="by default the server's")
    play.add_argument("--max-tokens", type=int, help="of a turn; by default the server's")
    play.add_argument("--body", metavar="JSON", default="{}", help="further keys of a request: '{\"seed\": 1}'")
    play.add_argument("--timeout", type=float, default=120.0, help="seconds of one request (default 120)")
    play.add_argument("--retries", type=int, default=4, help="attempts after the first (default 4)")
    play.add_argument("--api-key-env", default="OPENAI_API_KEY", help="variable with the key (default OPENAI_API_KEY)")
    return out


def setting_of(chosen: argparse.Namespace, tools: Sequence[str]) -> dict[str, Any]:
    """What has to be the same for records to be of one run.

    Raises:
      ValueError: --body is no JSON object.
    """
    try:
        body = json.loads(chosen.body)
    except json.JSONDecodeError as error:
        raise ValueError(f"--body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ValueError('--body is a JSON object, such as {"seed": 1}')
    if chosen.temperature is not None:
        body["temperature"] = chosen.temperature
    if chosen.max_tokens is not None:
        body["max_tokens"] = chosen.max_tokens
    return {
        "model": chosen.model,
        "questions": chosen.questions,
        "split": chosen.split or ("test" if chosen.questions == "atlas" else None),
        "families": chosen.families,
        "dialect": chosen.dialect,
        "tools": list(tools),
        "turns": chosen.turns if tools else 1,
        "view_size": chosen.view_size,
        "body": body,
    }


class Plan(NamedTuple):
    """All that a run needs."""

    setting: dict[str, Any]
    items: Sequence[AnyItem]
    problems: list[str]
    episodes: Episodes
    endpoint: ChatEndpoint
    records: Records


def prepare(chosen: argparse.Namespace) -> Plan:
    """What the arguments mean.

    Raises:
      ValueError, RecordError, OSError: with one line that says what to change.
    """
    if chosen.dialect not in names():
        raise ValueError(f"no dialect {chosen.dialect!r}; there are {', '.join(names())}")
    tools = () if chosen.no_tools else choose_tools(chosen.tools)
    setting = setting_of(chosen, [tool.name for tool in tools])
    key = os.environ.get(chosen.api_key_env)
    endpoint = ChatEndpoint(chosen.endpoint, chosen.model, key, chosen.timeout, chosen.retries, body=setting["body"])
    count = ATLAS_ITEMS if chosen.items is None and chosen.questions == "atlas" else chosen.items
    families = [name.strip() for name in chosen.families.split(",")] if chosen.families else None
    problems: list[str] = []
    items = find_items(chosen.questions, chosen.split, count, families, problems)
    records = Records(chosen.out, setting, chosen.resume)
    episodes = Episodes(tools, min(chosen.concurrency, len(items)), chosen.view_size, chosen.turns)
    return Plan(setting, items, problems, episodes, endpoint, records)


def run(plan: Plan, dialect: str) -> tuple[list[dict[str, Any]], Outcome, str]:
    """Plays what has not finished; the records of the plan's items, how it ended, and why it could not go on."""
    ids = [item.id for item in plan.items]
    done = {record["item"] for record in plan.records.kept}
    left = [place for place, name in enumerate(ids) if name not in done]

    def finished() -> list[dict[str, Any]]:
        return [record for record in plan.records.kept if record["item"] in ids]

    why = ""
    with Interrupts() as interrupts, Progress() as progress:
        for problem in plan.problems:
            progress.note(f"left out: {problem}")
        with progress.stage("play", total=len(ids), done=len(ids) - len(left)) as stage:

            def heard(record: dict[str, Any] | None, failure: str) -> None:
                if record is None:
                    progress.note(f"failed: {failure}")
                stage.advance(right=f"{sum(kept['correct'] for kept in finished())}/{len(finished())}")

            table = Table(plan.episodes, plan.endpoint, dialect, plan.records, heard, lambda: interrupts.requested)
            try:
                table.play(plan.items, left)
            except EndpointError as error:
                why = str(error)
    return finished(), table.outcome, why


def play(chosen: argparse.Namespace) -> int:
    """Runs the command; see the module for the exit codes."""
    enable_compile_cache()
    try:
        plan = prepare(chosen)
    except (ValueError, RecordError, OSError) as error:
        print(f"medvista_jax.environment play: {error}", file=sys.stderr)
        return 2
    finished, outcome, why = run(plan, chosen.dialect)
    summary = summarise(finished, plan.setting)
    (chosen.out / "summary.json").write_text(json.dumps({**summary, "failed": outcome.failed}, indent=2) + "\n")
    if finished:
        print(as_text(summary, outcome.failed), flush=True)
    if why:
        print(f"medvista_jax.environment play: {why}", file=sys.stderr)
    if why or outcome.stopped or outcome.failed:
        kept = f"{len(finished)} of {len(plan.items)} finished, kept in {chosen.out}"
        print(f"{kept}; the same command with --resume goes on", file=sys.stderr)
    return 2 if why else 130 if outcome.stopped else 1 if outcome.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    return play(parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
