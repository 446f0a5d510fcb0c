"""A model behind HTTP: one image and a question go out, one JSON value or text comes back.

Two protocols: ``"json"``, a POST of ``{"image": base64 PNG, "arguments": {…}}`` that is answered by a JSON object; and
``"chat"``, OpenAI's chat completions with the image as a data URL, whose answer is the message's text.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import json
import os
import re
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from medvista_jax.core.types import Fault
from medvista_jax.tools.host.call import ToolFailed, TryAgain
from medvista_jax.tools.host.images import png_base64

MAX_REPLY_BYTES = 1 << 20
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where a model listens and how it is spoken to.

    Attributes:
      url: of the POST; for ``"chat"`` the base that ends with ``/v1``, or all of it.
      protocol: see the module.
      model: name that a chat server wants.
      key_variable: environment variable that holds the bearer key, None for none. The key is read with each request.
      timeout_s: seconds of one request, from its start to the last byte of the reply.
      max_tokens: of a chat reply.
      seed: sent with a chat request; None for none.
    """

    url: str
    protocol: Literal["json", "chat"] = "json"
    model: str = ""
    key_variable: str | None = None
    timeout_s: float = 30.0
    max_tokens: int = 512
    seed: int | None = None

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"endpoint {self.url!r} is not an address such as http://127.0.0.1:8000/v1")
        if self.protocol not in ("json", "chat"):
            raise ValueError(f"protocol {self.protocol!r} is not 'json' or 'chat'")
        if self.timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, not {self.timeout_s}")
        if self.protocol == "chat" and not parts.path.rstrip("/").endswith("/chat/completions"):
            path = parts.path.rstrip("/") + "/chat/completions"
            object.__setattr__(self, "url", urllib.parse.urlunsplit(parts._replace(path=path)))


class Connection:
    """Keeps connections to one endpoint open; threads share it.

    Raises:
      ModuleNotFoundError: when ``httpx2`` is not installed.
    """

    def __init__(self, endpoint: Endpoint):
        try:
            import httpx2
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("tools behind HTTP need a package: pip install httpx2", name=error.name) from None
        self.endpoint = endpoint
        self._errors = httpx2
        host = urllib.parse.urlsplit(endpoint.url).hostname
        # A proxy of the environment is for the world outside, but httpx would send loopback there as well.
        self._client = httpx2.Client(
            timeout=endpoint.timeout_s, trust_env=host not in ("127.0.0.1", "::1", "localhost")
        )

    def ask(self, image: np.ndarray | None, arguments: Mapping[str, Any], prompt: str) -> Any:
        """The reply: a JSON object (``"json"``) or the message's text (``"chat"``).

        Args:
          image: uint8 [Y, X, 3] or None.
          arguments: of the call, for the ``"json"`` protocol.
          prompt: for the ``"chat"`` protocol.

        Raises:
          TryAgain: no connection, no reply in time, or a status of :data:`BUSY`, with its ``Retry-After``.
          ToolFailed: any other status, or a reply that is not of the protocol.
        """
        if self.endpoint.protocol == "json":
            body: dict[str, Any] = {"image": None if image is None else png_base64(image), "arguments": dict(arguments)}
            reply = self._post(body)
            if not isinstance(reply, dict):
                raise ToolFailed(f"{self.endpoint.url} replied with {type(reply).__name__}, not a JSON object")
            return reply
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if image is not None:
            url = f"data:image/png;base64,{png_base64(image)}"
            content.insert(0, {"type": "image_url", "image_url": {"url": url}})
        body = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.endpoint.max_tokens,
        }
        if self.endpoint.seed is not None:
            body["seed"] = self.endpoint.seed
        return self._message(self._post(body))

    def _message(self, reply: Any) -> str:
        try:
            text = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise ToolFailed(f"{self.endpoint.url} replied without choices[0].message.content")
        return re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip()

    def _post(self, body: Mapping[str, Any]) -> Any:
        url = self.endpoint.url
        try:
            status, headers, raw = self._request(body)
        except self._errors.TimeoutException as error:
            raise TryAgain(f"{url}: {type(error).__name__}", fault=Fault.TOOL_TIMED_OUT) from None
        except self._errors.TransportError as error:
            raise TryAgain(f"{url}: {error or type(error).__name__}") from None
        except self._errors.HTTPError as error:
            raise ToolFailed(f"{url}: {error or type(error).__name__}") from None
        if status != 200:
            message = f"{url} replied with status {status}: {raw[:200].decode(errors='replace')}"
            raise TryAgain(message, retry_after(headers.get("retry-after"))) if status in BUSY else ToolFailed(message)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            raise ToolFailed(f"{url} replied with something that is not JSON: {raw[:200]!r}") from None

    def _request(self, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body. httpx bounds each read, and the clock here all of them together."""
        variable, headers = self.endpoint.key_variable, {}
        if variable is not None:
            if not os.environ.get(variable):
                raise ToolFailed(f"the environment variable {variable}, key of {self.endpoint.url}, is not set")
            headers["Authorization"] = f"Bearer {os.environ[variable]}"
        end = time.monotonic() + self.endpoint.timeout_s
        with self._client.stream("POST", self.endpoint.url, json=body, headers=headers) as reply:
            raw = b""
            for piece in reply.iter_bytes():
                raw += piece
                if len(raw) > MAX_REPLY_BYTES:
                    raise ToolFailed(f"{self.endpoint.url} replied with more than {MAX_REPLY_BYTES} bytes")
                if time.monotonic() > end:
                    raise TryAgain(f"{self.endpoint.url} dribbles its reply", fault=Fault.TOOL_TIMED_OUT)
            return reply.status_code, reply.headers, raw


def retry_after(value: str | None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as seconds or as a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    now = datetime.datetime.now(datetime.UTC)
    date = date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    return max((date - now).total_seconds(), 0.0)
