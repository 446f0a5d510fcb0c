"""The README's own tool, word for word: one file, and nothing else is edited."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.environment.build import build_environment
from medvista_jax.text.chat import render_prompt
from medvista_jax.text.compare import parse_both
from medvista_jax.tools.apply import apply_calls
from medvista_jax.tools.call import ToolCall
from medvista_jax.tools.registry import DEFAULT_TOOLS, load_tools
from tests import tiny

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    block = re.search(r"```python\n(# my_tools.py\n.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None and block[1].count("\n") <= 15
    path = tmp_path_factory.mktemp("own") / "my_tools.py"
    path.write_text(block[1], encoding="utf-8")
    return path


def test_the_file_gives_tools_with_specs(file):
    tools = load_tools(file)
    assert list(tools) == ["contrast", "middle"]
    assert tools["contrast"].spec.schema()["function"]["parameters"]["required"] == ["percent"]
    prompt = render_prompt(tiny.TOKENIZER, "?", [1], [tool.spec for tool in tools.values()], "qwen")
    assert '"name": "contrast"' in tiny.TOKENIZER.decode(prompt.tokens)


def test_they_play_in_the_gym(file):
    own = load_tools(file)
    tools = (*DEFAULT_TOOLS.values(), *own.values())
    environment = build_environment(tiny.TOKENIZER, tools, 4, tiny.MODEL.image_size, tiny.TURNS, tiny.TURN_TOKENS)
    question = tiny.make_question(texts=["?"] * 3)
    state = tiny.reset(environment, tiny.filled(question), 1)
    said = [
        f"<tool_call>{own['contrast'].spec.render_call(percent=200)}</tool_call>",
        f"<tool_call>{own['middle'].spec.render_call()}</tool_call>",
        f"<tool_call>{own['contrast'].spec.render_call(percent=900)}</tool_call>",
    ]
    script = tiny.make_script([[text] for text in said])
    state, seen = tiny._step(environment, state, *tiny.filled((script.tokens_BRT[:, 0], script.length_BR[:, 0])))
    assert np.asarray(seen.parsed.fault_B[:3]).tolist() == [Fault.NONE, Fault.NONE, Fault.OUT_OF_RANGE]
    slots = np.where(np.arange(tiny.STEP_ROWS) == 0, 1, 0)
    bank = tiny.filled(question).bank
    shown = np.asarray(tiny.render_views(environment, bank, state.views, slots)).astype(int)
    plain = np.asarray(tiny.render_views(environment, bank, state.views, slots * 0)).astype(int)
    np.testing.assert_array_equal(shown[0], np.clip((plain[0] - 128) * 2 + 128, 0, 255))
    text = tiny.TOKENIZER.decode(np.asarray(seen.tokens_BW[1])[np.asarray(seen.valid_BW[1])])
    height, width = tiny.MODEL.image_size
    assert f"<tool_response>level {plain[1, height // 2, width // 2, 0]}</tool_response>" in text


def test_both_parsers_know_them(file):
    specs = [tool.spec for tool in load_tools(file).values()]
    from medvista_jax.text.grammar import compile_grammar

    turns = [f"<tool_call>{specs[0].render_call(percent=n)}</tool_call>".encode() for n in (0, 100, -1)]
    for host, device in parse_both(specs, compile_grammar(specs), turns, 128):
        assert host == device and host["tool"] == 0


def test_they_run_by_hand(file):
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    (result,) = apply_calls(load_tools(file), [ToolCall("middle", {}, [image])])
    assert result.fault == Fault.NONE and re.fullmatch(r"level \d+", result.text)


def test_the_commands_take_the_file(file, tmp_path):
    turns = tmp_path / "turns.jsonl"
    turns.write_text(json.dumps('<tool_call>{"name": "middle", "arguments": {}}</tool_call>') + "\n")
    run = lambda *words: subprocess.run(  # noqa: E731
        [sys.executable, "-m", *words, "--tools", str(file)], capture_output=True, text=True, timeout=300
    )
    parsed = run("medvista_jax.text", "parse", "--file", str(turns))
    assert parsed.returncode == 0 and json.loads(parsed.stdout)["host"]["fault"] == "NONE", parsed.stderr
    listed = run("medvista_jax.tools", "list")
    assert listed.returncode == 0 and "Raise or lower the contrast." in listed.stdout


def test_a_file_with_a_mistake_is_named_with_its_line(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import medvista_jax\n\nno_such_name\n")
    with pytest.raises(ValueError, match=r"wrong.py, line 3: NameError"):
        load_tools(wrong)
    wrong.write_text("x = 1\n")
    with pytest.raises(ValueError, match="defines no tool"):
        load_tools(wrong)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_tools(tmp_path / "none.py")
