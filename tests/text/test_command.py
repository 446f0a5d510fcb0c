"""``python -m medvista_jax.text parse`` as a user meets it."""

from __future__ import annotations

import json
import runpy
import sys
import types

import pytest

from medvista_jax.core.types import Fault
from medvista_jax.text import __main__ as command
from medvista_jax.text import compare
from tests.text.specs import TWO

TURNS = [
    '<think>a</think><tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [1, 2, 3, 4]}}</tool_call>',
    "<answer>größer</answer>",
    "\ud800 lone surrogate",
    "",
]


def load_tools(path):
    """In place of the registry's: the specs stand in the file as a list."""
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    found = runpy.run_path(str(path))["SPECS"]
    return {spec.name: types.SimpleNamespace(spec=spec) for spec in found}


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    tools = types.ModuleType("medvista_jax.tools")
    registry = types.ModuleType("medvista_jax.tools.registry")
    registry.DEFAULT_TOOLS = {spec.name: types.SimpleNamespace(spec=spec) for spec in TWO}
    registry.load_tools = load_tools
    monkeypatch.setitem(sys.modules, "medvista_jax.tools", tools)
    monkeypatch.setitem(sys.modules, "medvista_jax.tools.registry", registry)

    def call(text: str, *options: str):
        (tmp_path / "turns.jsonl").write_text(text, encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["text", "parse", "--file", str(tmp_path / "turns.jsonl"), *options])
        status = command.main()
        return status, capsys.readouterr()

    return call


def test_prints_a_line_a_turn(run) -> None:
    status, streams = run("\n".join(json.dumps(turn) for turn in TURNS) + "\n\n")
    lines = [json.loads(line) for line in streams.out.splitlines()]
    assert status == 0
    assert [line["turn"] for line in lines] == TURNS
    assert all(line["agree"] and line["host"] == line["device"] for line in lines)
    assert lines[0]["host"]["arguments"] == [1, 2, 3, 4, 0]
    assert lines[1]["host"]["answer"] == "größer"
    assert [line["values"] for line in lines] == [{"bbox_2d": [1, 2, 3, 4], "image_index": 0}, None, None, None]


def test_tools_of_a_users_own_file(run, tmp_path) -> None:
    path = tmp_path / "tools.py"
    path.write_text("from tests.text.specs import SEVEN as SPECS", encoding="utf-8")
    bodies = [
        '{"name": "search", "arguments": {"query": "\\u00e9\\ud800 日", "exact": false}}',
        '{"name": "flip", "arguments": {"axis": "hor"}}',
        '{"name": "mark", "arguments": {"point_2d": [1, 2], "label": "a\\"b"}}',
        '{"name": "mark", "arguments": {"point_2d": [1, 2], "label": "a\\x"}}',
    ]
    status, streams = run("\n".join(json.dumps(f"<tool_call>{b}</tool_call>") for b in bodies), "--tools", str(path))
    lines = [json.loads(line) for line in streams.out.splitlines()]
    assert status == 0 and all(line["agree"] for line in lines)
    assert [line["values"] for line in lines] == [
        {"query": "é\ufffd 日", "exact": False, "axis": ""},
        {"axis": "hor", "image_index": "last"},
        {"point_2d": [1, 2], "label": 'a"b', "filled": True, "low": [1, -2]},
        None,
    ]
    assert lines[3]["host"]["fault"] == "MALFORMED"


def test_tools_that_cannot_be_used_are_named(run, tmp_path) -> None:
    status, streams = run('"a"', "--tools", str(tmp_path / "none.py"))
    assert status == 2 and "none.py" in streams.err and streams.out == ""
    (tmp_path / "wide.py").write_text(
        "from medvista_jax.core.tool_spec import Argument, ToolSpec\n"
        "SPECS = [ToolSpec('a', '', (Argument('b', '', maximum=10**9),))]",
        encoding="utf-8",
    )
    status, streams = run('"a"', "--tools", str(tmp_path / "wide.py"))
    assert status == 2 and "bounds" in streams.err and streams.out == ""


def test_a_difference_is_an_exit_status(run, monkeypatch) -> None:
    honest = compare.parse_turn_text

    def lying(*arguments):
        turn = honest(*arguments)
        return compare.dataclasses.replace(turn, fault=Fault.MALFORMED) if turn.tool == 0 else turn

    monkeypatch.setattr(compare, "parse_turn_text", lying)
    status, streams = run("\n".join(json.dumps(turn) for turn in TURNS))
    assert status == 1
    assert [json.loads(line)["agree"] for line in streams.out.splitlines()] == [False, True, True, True]


@pytest.mark.parametrize(("text", "words"), [("{", "line 1"), ('"a"\n3', "line 2"), ('"a"\nb', "line 2")])
def test_a_bad_line_is_named(run, text, words) -> None:
    status, streams = run(text)
    assert status == 2 and words in streams.err and streams.out == ""


def test_an_empty_file_is_no_error(run) -> None:
    status, streams = run("")
    assert status == 0 and streams.out == ""
