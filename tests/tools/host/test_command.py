"""``python -m medvista_jax.tools``: the table, and one clear line for each mistake."""

from __future__ import annotations

import socket
import sys

import pytest

from medvista_jax.tools.__main__ import main

FILE = """
from medvista_jax.core.tool_spec import Argument
from medvista_jax.tools.host.declare import host_tool

@host_tool("Say it.", Argument("word", "a word", "string", default=""), Argument("loud", "how", "boolean", default=0),
           Argument("tone", "which", "enum", choices=("low", "high"), default=1), family="mine")
def {name}(word, loud, tone):
    return word
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(name="say"))
    return path


def test_the_table_has_a_line_a_tool(capsys, file, tmp_path):
    (tmp_path / "notes.txt").write_text("words")
    options = [
        "--text",
        str(tmp_path / "notes.txt"),
        "--classify",
        "http://127.0.0.1:1",
        "--ground",
        "http://127.0.0.1:1",
    ]
    assert main(["list", "--tools", str(file), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["family", "name", "arguments", "tokens", "description"]
    by_name = {line.split()[1]: line for line in lines[1:]}
    assert {"zoom_in", "read_text", "retrieve", "classify", "ground", "say"} <= by_name.keys()
    assert by_name["say"].split(maxsplit=2)[2].split("  ")[0] == "word='', loud=0, tone=high"
    assert by_name["say"].startswith("mine ") and by_name["say"].endswith("  Say it.")
    assert len({line.index(word) for line, word in ((lines[0], "description"), (by_name["say"], "Say it."))}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tools", "nowhere.py"], "no file nowhere.py"),
        (["--text", "nowhere.txt"], "there is no file or folder nowhere.txt"),
        (["--classify", "somewhere"], "'somewhere' is not an address such as"),
        (["--ground", "http://"], "is not an address such as"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(capsys, options, message):
    assert main(["list", *options]) == 2
    out, error = capsys.readouterr()
    assert out == "" and message in error and error.count("\n") == 1


def test_two_tools_of_one_name_are_refused(capsys, file):
    file.write_text(FILE.format(name="zoom_in"))
    assert main(["list", "--tools", str(file)]) == 2
    assert capsys.readouterr().err == "there are two tools of the name 'zoom_in'\n"


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_remedy(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == "serve needs uvicorn: pip install fastapi uvicorn prometheus-client\n"
    monkeypatch.setitem(sys.modules, "httpx2", None)
    assert main(["list", "--ground", "http://127.0.0.1:1"]) == 2
    assert capsys.readouterr().err == "tools behind HTTP need a package: pip install httpx2\n"
