"""A chat server for tests: it checks every request against the protocol as strict servers do, and plays a script."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Request = dict[str, Any]


@dataclasses.dataclass
class Say:
    """One reply: a message, or a status with headers, or silence."""

    content: Any = None
    calls: tuple[Any, ...] = ()
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    raw: bytes | None = None
    hang_s: float = 0.0
    once: bool = False
    """The next attempt of the same request gets the reply behind this one."""


def tool_call(name: str, arguments: Any, call: Any = "call_a") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
    return {"id": call, "type": "function", "function": function}


class Refused(Exception):
    """What a strict server answers with status 400."""


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


def check(request: Request) -> None:
    """The rules of the protocol that servers enforce, and those that they merely document."""
    known = {"model", "messages", "tools", "tool_choice", "temperature", "max_tokens", "seed"}
    demand(request.keys() <= known, f"unknown keys {request.keys() - known}")
    demand(isinstance(request.get("model"), str), "model is a string")
    messages = request.get("messages")
    demand(isinstance(messages, list) and len(messages) > 1, "messages is a list")
    demand([m["role"] for m in messages[:2]] == ["system", "user"], "system, then user")
    waiting: list[str] = []
    seen: set[str] = set()
    for message in messages:
        role = message.get("role")
        if role == "tool":
            demand(message.keys() == {"role", "tool_call_id", "content"}, "keys of a tool message")
            demand(message["tool_call_id"] in waiting, "a reply to a call that was not made")
            demand(isinstance(message["content"], str), "a tool's reply is text")
            waiting.remove(message["tool_call_id"])
            continue
        demand(not waiting, f"calls {waiting} were not replied to")
        if role == "assistant":
            waiting = check_assistant(message, seen)
        elif role == "user":
            check_user(message)
        else:
            demand(role == "system" and message is messages[0] and isinstance(message["content"], str), f"role {role}")
    demand(not waiting and messages[-1]["role"] in ("user", "tool"), "the assistant speaks next")
    if "tools" in request:
        demand(bool(request["tools"]), "tools is not empty")
        for tool in request["tools"]:
            demand(tool.keys() == {"type", "function"} and tool["type"] == "function", "a tool is a function")
            demand(tool["function"].keys() >= {"name", "description", "parameters"}, "keys of a function")
            demand(tool["function"]["parameters"]["type"] == "object", "parameters are an object")
    demand(request.get("tool_choice") in ((None, "auto", "none") if "tools" in request else (None,)), "tool_choice")


def check_assistant(message: Mapping[str, Any], seen: set[str]) -> list[str]:
    demand(message.keys() <= {"role", "content", "tool_calls"}, f"keys {message.keys()}")
    calls = message.get("tool_calls", [])
    demand("tool_calls" not in message or bool(calls), "tool_calls is not empty")
    demand(isinstance(message["content"], str | list) or (message["content"] is None and bool(calls)), "content")
    ids = []
    for call in calls:
        demand(call.keys() == {"id", "type", "function"} and call["type"] == "function", "keys of a call")
        demand(isinstance(call["id"], str) and call["id"] not in seen, f"id {call['id']!r}")
        demand(isinstance(call["function"]["name"], str), "a function has a name")
        try:
            arguments = json.loads(call["function"]["arguments"])
        except ValueError:
            raise Refused("arguments are JSON") from None
        demand(isinstance(arguments, dict), "arguments are an object")
        seen.add(call["id"])
        ids.append(call["id"])
    return ids


def check_user(message: Mapping[str, Any]) -> None:
    demand(message.keys() == {"role", "content"}, "keys of a user's message")
    content = message["content"]
    demand(isinstance(content, list) and bool(content), "content is a list of parts")
    for part in content:
        if part["type"] == "text":
            demand(part.keys() == {"type", "text"} and isinstance(part["text"], str), "a text part")
        else:
            demand(part["type"] == "image_url" and part["image_url"].keys() == {"url"}, "an image part")
            decode(part["image_url"]["url"])


def decode(url: str) -> np.ndarray:
    """The pixels of a data URL."""
    head, _, body = url.partition(",")
    demand(head == "data:image/png;base64", f"not a data URL of a PNG: {head}")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body, validate=True))))


def images_of(request: Request) -> list[np.ndarray]:
    """All images of a request in their order."""
    return [
        decode(part["image_url"]["url"])
        for message in request["messages"]
        if message["role"] == "user"
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def texts_of(message: Mapping[str, Any]) -> str:
    """The words of a user's message."""
    return "\n".join(part["text"] for part in message["content"] if part["type"] == "text")


class Server:
    """Replies to the question ``q`` by ``script[q][k]`` where k is how often the assistant has spoken.

    Attributes:
      requests: as they came, by question.
      refused: what was wrong with requests.
      keys: the Authorization headers.
    """

    def __init__(self, script: Mapping[str, list[Say]] | Callable[[Request], Say]) -> None:
        self.script = script
        self.requests: dict[str, list[Request]] = {}
        self.refused: list[str] = []
        self.keys: set[str | None] = set()
        self.released = threading.Event()
        self.used: set[int] = set()
        self.lock = threading.Lock()
        self.url = ""

    def reply(self, request: Request) -> Say:
        check(request)
        question = texts_of(request["messages"][1]).splitlines()[-1]
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        with self.lock:
            self.requests.setdefault(question, []).append(request)
            if callable(self.script):
                return self.script(request)
            said = [say for say in self.script[question] if not (say.once and id(say) in self.used)]
            self.used.add(id(said[turn]))
            return said[turn]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    board: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        self.board.keys.add(self.headers.get("Authorization"))
        try:
            demand(self.path == "/v1/chat/completions", f"path {self.path}")
            demand(self.headers["Content-Type"] == "application/json", "content type")
            say = self.board.reply(json.loads(raw))
        except Refused as error:
            self.board.refused.append(str(error))
            say = Say(status=400, raw=json.dumps({"error": {"message": str(error)}}).encode())
        if say.hang_s:
            self.board.released.wait(say.hang_s)
        message = {"role": "assistant", "content": say.content}
        if say.calls:
            message["tool_calls"] = list(say.calls)
        body = say.raw
        if body is None and say.status == 200:
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if say.calls else "stop"}
            usage = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
            body = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        body = body or b'{"error": {"message": "the server is busy"}}'
        try:
            self.send_response(say.status)
            for name, value in {"Content-Type": "application/json", **say.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client has given up


@contextmanager
def serving(script: Mapping[str, list[Say]] | Callable[[Request], Say]) -> Iterator[Server]:
    """The server on a free port of this machine."""
    board = Server(script)
    handler = type("Handler", (_Handler,), {"board": board})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    board.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield board
    finally:
        board.released.set()
        server.shutdown()
        server.server_close()
