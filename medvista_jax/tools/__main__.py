"""The tools on the command line.

    python -m medvista_jax.tools list [--tools FILE.py] …
    python -m medvista_jax.tools serve [--port 8765] [--tools FILE.py] [--text passages.txt] …

``serve`` answers until Ctrl-C, on loopback unless told otherwise; :mod:`medvista_jax.tools.server` says what. Both take
the same options that add tools.
"""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from medvista_jax.core.tool_spec import Argument
from medvista_jax.tools import read_text
from medvista_jax.tools.apply import apply_calls
from medvista_jax.tools.base import Tool
from medvista_jax.tools.classify import make_classify
from medvista_jax.tools.ground import make_ground
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.host.endpoint import Endpoint
from medvista_jax.tools.registry import ALL_TOOLS, load_tools
from medvista_jax.tools.retrieve import make_retrieve


def _tool_options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    more = parser.add_argument_group("tools beside those of the package")
    more.add_argument("--tools", type=Path, action="append", default=[], metavar="FILE.py", help="all that it defines")
    more.add_argument("--text", metavar="PATH", help="retrieve: passages of a file or folder (.txt, .md, .jsonl)")
    more.add_argument("--classify", metavar="URL", help="classify: a model behind HTTP")
    more.add_argument("--labels", default="", metavar="A,B,…", help="what classify may answer")
    more.add_argument("--ground", metavar="URL", help="ground: a model behind HTTP")
    more.add_argument("--protocol", choices=("json", "chat"), default="json", help="of the models behind HTTP")
    more.add_argument("--model", default="", help="the model's name, for --protocol chat")
    more.add_argument("--key-variable", metavar="NAME", help="environment variable that holds the models' key")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m medvista_jax.tools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[_tool_options()], help="print the tools as a table")
    serve = commands.add_parser("serve", parents=[_tool_options()], help="answer calls over HTTP")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8765, help="0 for any that is free (default: %(default)s)")
    return parser


def gather_tools(options: argparse.Namespace) -> dict[str, Tool | HostTool]:
    """The tools that the options ask for, by name.

    Raises:
      ValueError, OSError, ModuleNotFoundError: saying which option is wrong, or what to install for it.
    """
    tools: dict[str, Tool | HostTool] = {**ALL_TOOLS, read_text.TOOL.name: read_text.TOOL}
    new: list[Tool | HostTool] = [tool for path in options.tools for tool in load_tools(path).values()]
    if options.text:
        new.append(make_retrieve(options.text))
    labels = [label.strip() for label in options.labels.split(",") if label.strip()]
    for url, make in ((options.classify, lambda at: make_classify(at, labels)), (options.ground, make_ground)):
        if url:
            new.append(make(Endpoint(url, options.protocol, options.model, options.key_variable)))
    for tool in new:
        if tool.name in tools:
            raise ValueError(f"there are two tools of the name {tool.name!r}")
        tools[tool.name] = tool
    return tools


def table(tools: Mapping[str, Tool | HostTool]) -> str:
    """Family, name, arguments, cost and description of each tool, in columns.

    The cost is what the tool's schema and its longest text take in tokens of the packaged vocabulary; ``L`` is an
    image's.
    """
    from medvista_jax.environment.build import token_costs  # late: the command stands above these rooms
    from medvista_jax.text.tokenizer import SentencePieceTokenizer

    costs = token_costs(SentencePieceTokenizer(), tuple(tools.values()), tokens_per_image=0)
    rows = [("family", "name", "arguments", "tokens", "description")]
    for tool in tools.values():
        shown, cost = ", ".join(map(_argument, tool.spec.arguments)), costs[tool.name]
        tokens = f"{cost.offered}, {cost.observation}" + (" + L" if getattr(tool, "image", False) else "")
        rows.append((tool.spec.family or "-", tool.name, shown, tokens, tool.spec.description))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    ]
    return "\n".join(lines)


def _argument(argument: Argument) -> str:
    """``bbox_2d``, or ``angle=0`` with its default."""
    if argument.default is None:
        return argument.name
    if argument.kind == "enum":
        return f"{argument.name}={argument.choices[argument.default]}"
    default = list(argument.default) if isinstance(argument.default, tuple) else argument.default
    return f"{argument.name}={default!r}"


def serve(tools: Mapping[str, Tool | HostTool], host: str, port: int) -> int:
    """Answers until interrupted. Returns the exit code."""
    try:
        import uvicorn

        from medvista_jax.tools.server import Limits, make_app
    except ModuleNotFoundError as error:
        print(f"serve needs {error.name}: pip install fastapi uvicorn prometheus-client", file=sys.stderr)
        return 2
    from medvista_jax.text.chat import ERRORS  # late: the command stands above text, the tools do not

    try:
        listener = _listen(host, port)
    except OSError as error:
        print(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; choose another --port", file=sys.stderr
        )
        return 2
    loopback = _is_loopback(listener)
    limits = Limits()
    hosts = ["127.0.0.1", "localhost", "[::1]"] if loopback else None
    app = make_app(tools, apply_calls, limits, ERRORS, hosts)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"{len(tools)} tools on {address}: GET /tools, POST /call, POST /batch. Ctrl-C stops.", flush=True)
    if not loopback:
        print("Whoever reaches this address can call the tools; nothing asks for a key.", file=sys.stderr)
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=3, limit_concurrency=2 * limits.waiting, lifespan="off"
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn hands the signal on when it has closed down
        pass
    return 0


def _listen(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=512)


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        tools = gather_tools(options)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.command == "list":
        print(table(tools))
        return 0
    return serve(tools, options.host, options.port)


if __name__ == "__main__":
    sys.exit(main())
