"""A chat server for a judge's tests: it notes every request and replies as it is told."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclasses.dataclass(frozen=True)
class Say:
    """One reply: a message, or raw bytes, or a status; after a silence."""

    content: str = ""
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    raw: bytes | None = None
    hang_s: float = 0.0


class Stub:
    """What came in, and where."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.released = threading.Event()


@contextmanager
def stub(script: Callable[[str], Say]) -> Iterator[Stub]:
    """A server on a free port of this machine; ``script`` maps a prompt to its reply."""
    server = Stub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(request)
            say = script(request["messages"][0]["content"][0]["text"])
            server.released.wait(say.hang_s)
            message = {"choices": [{"index": 0, "message": {"role": "assistant", "content": say.content}}]}
            body = json.dumps(message).encode() if say.raw is None else say.raw
            try:
                self.send_response(say.status)
                for name, value in say.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the client has given up

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield server
    finally:
        server.released.set()
        http.shutdown()
        http.server_close()
