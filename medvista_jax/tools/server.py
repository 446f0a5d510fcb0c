"""The tools over HTTP, for other people's agents: calls that arrive together run as one batch.

``GET /tools`` lists the specs as OpenAI's ``tools``, ``POST /call`` carries out one call and ``POST /batch`` several,
``GET /health`` and ``GET /metrics`` (Prometheus) say how it goes. A call is ``{"name", "arguments", "images"}`` with
images as PNG or JPEG in base64 or as data URLs, and optional ``spacing``, ``rescale`` and ``window`` as in
:class:`~medvista_jax.tools.call.ToolCall`; it is answered by ``{"fault", "text", "image"}``.

What is wrong with a call is for the policy to read: status 200 and a fault, as in the gym. What is wrong with a request
is for its programmer: a status from 400 on and ``{"error": one sentence}``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import medvista_jax
from medvista_jax.core.types import Fault
from medvista_jax.tools.base import Tool
from medvista_jax.tools.batcher import Batcher, Overloaded, in_thread
from medvista_jax.tools.call import ToolCall, ToolResult
from medvista_jax.tools.host.call import HostTool
from medvista_jax.tools.host.images import decode_image, png_base64
from medvista_jax.tools.server_metrics import Metrics

Apply = Callable[[Mapping[str, Tool | HostTool], Sequence[ToolCall]], Sequence[ToolResult]]
"""Carries out a batch: a result for each call, in order."""

_DECODERS = 4
"""Requests whose images are decoded or encoded at a time, which bounds the memory that they take meanwhile."""

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a client may ask of the server.

    Attributes:
      body_bytes: of a request.
      image_pixels: of one image.
      request_pixels: of all images of a request together, for a small PNG can hold many.
      images: of one call.
      calls: of one ``/batch``, and that run together.
      waiting: calls that wait or run, of all clients; beyond them a request is refused with status 503.
      gather_s: seconds that a ``/call`` waits for others to join it.
      parallel: batches that run at once.
    """

    body_bytes: int = 32 << 20
    image_pixels: int = 1 << 24
    request_pixels: int = 1 << 26
    images: int = 8
    calls: int = 64
    waiting: int = 256
    gather_s: float = 0.004
    parallel: int = 2


def _arguments(value: Any) -> Any:
    """OpenAI's tool calls carry their arguments as a string of JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError("a string here must be the JSON of an object") from None


def _rising(window: tuple[float, float]) -> tuple[float, float]:
    if window[1] <= window[0]:
        raise ValueError("white must lie above black")
    return window


_Length = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class CallBody(BaseModel):
    """Body of ``/call``."""

    model_config = ConfigDict(extra="forbid")
    name: str
    arguments: Annotated[dict[str, Any], BeforeValidator(_arguments)] = Field(default_factory=dict)
    images: list[str] = Field(default_factory=list)
    spacing: tuple[_Length, _Length] | None = None
    rescale: tuple[FiniteFloat, FiniteFloat] | None = None
    window: Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_rising)] | None = None


class BatchBody(BaseModel):
    """Body of ``/batch``."""

    model_config = ConfigDict(extra="forbid")
    calls: list[CallBody]


class _Refused(Exception):
    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


def make_app(
    tools: Mapping[str, Tool | HostTool],
    apply: Apply,
    limits: Limits = Limits(),  # noqa: B008  frozen
    errors: Mapping[Fault, str] | None = None,
    hosts: Sequence[str] | None = None,
) -> FastAPI:
    """The server as an ASGI application.

    Args:
      tools: what is offered, by name.
      apply: carries out calls; several batches at once, from threads.
      limits: see there.
      errors: what a fault says where its result has no text; without it, the fault's name.
      hosts: names under which the server may be called, None for any. On loopback this keeps web pages that point a
        name of their own at 127.0.0.1 away.
    """
    metrics = Metrics(tools)
    batcher = Batcher(lambda calls: apply(tools, calls), limits.calls, limits.gather_s, limits.parallel, limits.waiting)
    metrics.watch(batcher)
    decoding = asyncio.Semaphore(_DECODERS)
    app = FastAPI(title="MedVista tools", version=medvista_jax.__version__, docs_url=None, redoc_url=None)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    _handle_errors(app, metrics)

    async def carry_out(bodies: Sequence[CallBody], together: bool) -> list[dict[str, Any]]:
        start = time.monotonic()
        async with decoding:
            calls = await in_thread(lambda: _tool_calls(bodies, limits))
        try:
            results = await batcher.batch(calls) if together else [await batcher.one(calls[0])]
        except Overloaded as error:
            raise _Refused(503, str(error), {"Retry-After": "1"}) from None
        for call, result in zip(calls, results, strict=True):
            metrics.record(call.name, result.fault, time.monotonic() - start)
        async with decoding:
            return await in_thread(lambda: [_reply(result, errors or {}) for result in results])

    @app.get("/tools")
    async def list_tools() -> list[dict[str, Any]]:
        return [tool.spec.schema() for tool in tools.values()]

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": medvista_jax.__version__, "tools": len(tools), "waiting": batcher.waiting}

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/call", openapi_extra=_body_schema(CallBody.model_json_schema()))
    async def call(request: Request) -> JSONResponse:
        body = await _read(request, CallBody, limits)
        return JSONResponse((await carry_out([body], together=False))[0])

    many = {"type": "object", "properties": {"calls": {"type": "array", "items": CallBody.model_json_schema()}}}

    @app.post("/batch", openapi_extra=_body_schema(many))
    async def batch(request: Request) -> JSONResponse:
        body = await _read(request, BatchBody, limits)
        if len(body.calls) > limits.calls:
            raise _Refused(413, f"calls: {len(body.calls)} are too many; {limits.calls} are allowed in a batch")
        return JSONResponse({"results": await carry_out(body.calls, together=True)})

    return app


def _body_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _handle_errors(app: FastAPI, metrics: Metrics) -> None:
    @app.exception_handler(_Refused)
    async def refused(request: Request, error: _Refused) -> JSONResponse:
        metrics.refused.labels(error.status).inc()
        return JSONResponse({"error": error.message}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def no_such_place(request: Request, error: HTTPException) -> JSONResponse:
        metrics.refused.labels(error.status_code).inc()
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse({"error": message}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        _logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        metrics.refused.labels(500).inc()
        return JSONResponse({"error": "the server failed; its log says why"}, 500)


async def _read(request: Request, kind: type[BaseModel], limits: Limits) -> Any:
    """The body as ``kind``; it is not read further than it may be long."""
    # A page in a browser may send text to loopback unasked, but not under this type.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise _Refused(415, "the content type must be application/json")
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > limits.body_bytes:
            raise _Refused(413, f"the body is longer than {limits.body_bytes} bytes")
    try:
        return kind.model_validate_json(bytes(raw))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise _Refused(400, f"{where}: {first['msg']}" if where else first["msg"]) from None


def _tool_calls(bodies: Sequence[CallBody], limits: Limits) -> list[ToolCall]:
    """Decodes the images; one that several calls of a request share is decoded once."""
    decoded: dict[str, np.ndarray] = {}
    left = limits.request_pixels
    for at, body in enumerate(bodies):
        if len(body.images) > limits.images:
            raise _Refused(413, f"calls.{at}: {len(body.images)} images are too many; {limits.images} are allowed")
        for index, text in enumerate(body.images):
            if text in decoded:
                continue
            try:
                decoded[text] = decode_image(text, min(limits.image_pixels, left))
            except ValueError as error:
                raise _Refused(400, f"calls.{at}.images.{index}: {error}") from None
            left -= decoded[text].shape[0] * decoded[text].shape[1]
    return [
        ToolCall(
            body.name, body.arguments, [decoded[text] for text in body.images], body.spacing, body.rescale, body.window
        )
        for body in bodies
    ]


def _reply(result: ToolResult, errors: Mapping[Fault, str]) -> dict[str, Any]:
    """``fault`` is null or the fault's name in small letters; its text is what the policy would read."""
    fault = None if result.fault == Fault.NONE else Fault(result.fault)
    return {
        "fault": fault and fault.name.lower(),
        "text": result.text or (errors.get(fault, fault.name.lower()) if fault else ""),
        "image": None if fault or result.image is None else png_base64(np.asarray(result.image)),
    }
