"""A chat endpoint that speaks OpenAI's protocol: one request with time-outs and retries, by the standard library.

Redirects are not followed, for they would carry the key elsewhere. Proxies of the environment are used for other hosts
than this one.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import http.client
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same request may succeed."""

LONGEST_PAUSE_S = 60.0
"""Of a pause before a retry, whatever the server asks for."""

LARGEST_REPLY = 2**25
"""Bytes of a reply that are read."""

Message = dict[str, Any]


class EndpointError(Exception):
    """No further request can succeed: nobody listens, or the key, the model or the request is refused."""


class RequestFailed(Exception):
    """This request did not succeed within its attempts."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """What came back.

    Attributes:
      message: the assistant's message of the first choice.
      finish_reason: "stop", "tool_calls", "length" …; "" where the server does not say.
      usage: the server's counts of tokens, perhaps none.
      seconds: of the successful attempt.
      attempts: how many it took.
    """

    message: Message
    finish_reason: str
    usage: Mapping[str, int]
    seconds: float
    attempts: int


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


class ChatEndpoint:
    """``POST URL/chat/completions``; threads may share it.

    Args:
      url: up to and with ``/v1``.
      model: name for the server.
      key: sent as a bearer token; None for none.
      timeout_s: seconds of one attempt.
      retries: attempts after the first, for the statuses of :data:`RETRIED`, time-outs and broken connections.
      backoff_s: pause before the first retry, doubled with each further one; a longer ``Retry-After`` is obeyed.
      body: further keys of every request, such as temperature.

    Raises:
      ValueError: for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 4,
        backoff_s: float = 1.0,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no endpoint; one such as http://127.0.0.1:8000/v1 is wanted")
        if timeout_s <= 0 or retries < 0 or backoff_s < 0:
            raise ValueError("timeout must be positive, retries and backoff not negative")
        self.url = url.rstrip("/").removesuffix("/chat/completions")
        self.model = model
        self.stopped = threading.Event()
        """Set it to end pauses: no further attempt is begun."""
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._timeout_s, self._retries, self._backoff_s = timeout_s, retries, backoff_s
        self._body = dict(body or {})
        self._answered = False  # whether anybody was ever there: else a refused connection is no hiccup
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        proxies = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(_NoRedirect, *proxies)

    def complete(self, messages: Sequence[Message], **body: Any) -> Completion:
        """One completion.

        Args:
          messages: of the conversation.
          body: further keys, such as ``tools`` and ``tool_choice``.

        Raises:
          EndpointError, RequestFailed: with the endpoint and what it said.
        """
        raw = json.dumps({"model": self.model, "messages": list(messages), **self._body, **body}).encode()
        last = ""
        for attempt in range(self._retries + 1):
            pause = 0.0
            began = time.monotonic()
            try:
                reply = self._post(raw)
                self._answered = True
                return self._completion(reply, time.monotonic() - began, attempt + 1)
            except urllib.error.HTTPError as error:
                self._answered = True
                last = self._explain(error)
                if error.code not in RETRIED:
                    raise EndpointError(last) from None
                pause = _retry_after(error.headers.get("Retry-After"))
            except (OSError, http.client.HTTPException) as error:
                last = self._unreachable(error)
                if not self._answered and not isinstance(_cause(error), TimeoutError):
                    raise EndpointError(last) from None
            jitter = 0.5 + zlib.crc32(raw[-64:] + bytes([attempt])) / 2**33
            pause = max(pause, self._backoff_s * 2**attempt * jitter)
            if attempt == self._retries or self.stopped.wait(min(pause, LONGEST_PAUSE_S)):
                break
        raise RequestFailed(f"{last} ({attempt + 1} attempts)")

    def _post(self, raw: bytes) -> bytes:
        request = urllib.request.Request(f"{self.url}/chat/completions", raw, self._headers, method="POST")
        deadline = time.monotonic() + self._timeout_s
        parts, size = [], 0
        with self._opener.open(request, timeout=self._timeout_s) as response:
            while part := response.read1(2**16):
                parts.append(part)
                size += len(part)
                if size > LARGEST_REPLY:
                    raise EndpointError(f"{self.url} replies with more than {LARGEST_REPLY:,} bytes")
                if time.monotonic() > deadline:  # the socket's time-out is one of silence
                    raise TimeoutError
            if response.length:  # read1 does not raise where read does
                raise http.client.IncompleteRead(b"".join(parts), response.length)
        return b"".join(parts)

    def _completion(self, raw: bytes, seconds: float, attempts: int) -> Completion:
        try:
            reply = json.loads(raw)
            choice = reply["choices"][0]
            message = choice["message"]
            if not isinstance(message, dict):
                raise TypeError("message is no object")
        except (ValueError, LookupError, TypeError) as error:
            raise EndpointError(
                f"{self.url}/chat/completions replies with something that is no chat completion "
                f"({type(error).__name__}: {error}): {raw[:200].decode(errors='replace')!r}"
            ) from None
        usage = reply.get("usage")
        counts = {k: v for k, v in usage.items() if isinstance(v, int)} if isinstance(usage, dict) else {}
        reason = choice.get("finish_reason")
        return Completion(message, reason if isinstance(reason, str) else "", counts, seconds, attempts)

    def _explain(self, error: urllib.error.HTTPError) -> str:
        """The server's own words."""
        try:
            raw = error.read(10_000)
        except (OSError, http.client.HTTPException):
            raw = b""
        text = raw.decode(errors="replace")
        try:
            inside = json.loads(text)
            detail = inside.get("error", inside.get("detail", inside.get("message")))
            text = detail.get("message", text) if isinstance(detail, dict) else detail or text
        except (ValueError, AttributeError):
            pass  # text that is no JSON of the usual form is shown as it is
        hint = {401: "; is the key right (--api-key-env)?", 404: "; is the path right (…/v1), and the model's name?"}
        said = " ".join(str(text).split())[:500]
        return f"{self.url}/chat/completions: HTTP {error.code} {error.reason}: {said}{hint.get(error.code, '')}"

    def _unreachable(self, error: Exception) -> str:
        cause = _cause(error)
        if isinstance(cause, TimeoutError):
            return f"{self.url}: no answer within {self._timeout_s:g} s"
        if isinstance(cause, ConnectionRefusedError):
            return f"{self.url}: connection refused; is the server running, and on this port?"
        return f"{self.url}: {type(cause).__name__}: {cause}"


def _cause(error: Exception) -> Any:
    """What is behind urllib's wrapper."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return reason if isinstance(reason, Exception) else error


def _retry_after(value: str | None) -> float:
    """Seconds of the header, which holds a number or a date (RFC 9110, 10.2.3); 0 where it holds neither."""
    if value is None:
        return 0.0
    try:
        return max(0.0, min(float(value), LONGEST_PAUSE_S))
    except ValueError:
        pass  # a date
    try:
        then = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=datetime.UTC)
    return max(0.0, (then - datetime.datetime.now(datetime.UTC)).total_seconds())
