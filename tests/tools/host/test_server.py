"""The tool server: what it answers, what it refuses, and that calls which arrive together run together."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import io
import json
import re
import signal
import subprocess
import sys
import threading

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Fault
from medvista_jax.text.chat import ERRORS
from medvista_jax.tools.batcher import Batcher, Overloaded
from medvista_jax.tools.call import ToolCall, ToolResult
from medvista_jax.tools.host.apply import apply_host_calls
from medvista_jax.tools.host.declare import host_tool
from medvista_jax.tools.host.images import png_base64
from medvista_jax.tools.server import Limits, make_app

PIXELS = np.random.default_rng(2).integers(0, 256, (6, 8, 3), np.uint8)
PNG = png_base64(PIXELS)


@host_tool("Name the size.", Argument("unit", "a unit", "enum", choices=("px", "mm"), default=0))
def size(image: Image.Image, unit: str) -> str:
    return f"{image.width} by {image.height} {unit}"


@host_tool("Fail.", Argument("why", "a reason", "string", 1, 20))
def fail(why: str) -> str:
    raise ValueError(why)


TOOLS = {tool.name: tool for tool in (size, fail)}


def apply(tools, calls):
    """Host tools, and one that turns an image upside down as a device tool may."""
    turned = [call for call in calls if call.name == "turn"]
    others = iter(apply_host_calls(tools, [call for call in calls if call.name != "turn"]))
    results = [
        ToolResult(Fault.NONE, "image 1", call.images[0][::-1]) if call in turned else next(others) for call in calls
    ]
    return results


def serving(**settings):
    apply_with = settings.pop("apply", apply)
    limits = Limits(**settings)
    return TestClient(make_app(TOOLS, apply_with, limits, ERRORS), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client():
    with serving() as client:
        yield client


def pixels_of(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_the_tools_are_listed_as_openai_has_them(client):
    assert client.get("/tools").json() == [size.spec.schema(), fail.spec.schema()]


def test_a_call_is_answered_by_text(client):
    reply = client.post("/call", json={"name": "size", "arguments": {"unit": "mm"}, "images": [PNG]})
    assert (reply.status_code, reply.json()) == (200, {"fault": None, "text": "8 by 6 mm", "image": None})


def test_a_call_is_answered_by_an_image_of_the_same_pixels(client):
    reply = client.post("/call", json={"name": "turn", "images": ["data:image/png;base64," + PNG]}).json()
    assert (reply["fault"], reply["text"]) == (None, "image 1")
    np.testing.assert_array_equal(pixels_of(reply["image"]), PIXELS[::-1])


def test_arguments_may_be_the_string_that_openai_sends(client):
    assert client.post("/call", json={"name": "size", "arguments": '{"unit": "mm"}', "images": [PNG]}).json()[
        "text"
    ] == ("8 by 6 mm")


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ({"name": "nobody"}, Fault.UNKNOWN_TOOL),
        ({"name": "size", "arguments": {"unit": "inch"}, "images": [PNG]}, Fault.OUT_OF_RANGE),
        ({"name": "size", "arguments": {"x": 1}, "images": [PNG]}, Fault.UNKNOWN_ARGUMENT),
        ({"name": "fail"}, Fault.MISSING_ARGUMENT),
        ({"name": "size", "arguments": {"image_index": 1}, "images": [PNG]}, Fault.NO_SUCH_IMAGE),
        ({"name": "fail", "arguments": {"why": "x"}}, Fault.TOOL_FAILED),
    ],
)
def test_what_is_wrong_with_a_call_is_a_fault(client, call, fault):
    reply = client.post("/call", json=call)
    assert reply.status_code == 200
    assert reply.json() == {"fault": fault.name.lower(), "text": ERRORS[fault], "image": None}


@pytest.mark.parametrize(
    ("place", "body", "status", "message"),
    [
        ("/call", b"{", 400, "Invalid JSON"),
        ("/call", b"[]", 400, "Input should be an object"),
        ("/call", b"{}", 400, "name: Field required"),
        ("/call", b'{"name": 3}', 400, "name: Input should be a valid string"),
        ("/call", b'{"name": "size", "args": {}}', 400, "args: Extra inputs are not permitted"),
        ("/call", b'{"name": "size", "arguments": [1]}', 400, "arguments: Input should be an object"),
        (
            "/call",
            b'{"name": "size", "arguments": "{"}',
            400,
            "arguments: .*a string here must be the JSON of an object",
        ),
        ("/call", b'{"name": "size", "images": ["%%"]}', 400, r"calls\.0\.images\.0: not base64"),
        ("/call", b'{"name": "size", "spacing": [1]}', 400, r"spacing\.1: Field required"),
        ("/call", b'{"name": "size", "spacing": [0, 1]}', 400, r"spacing\.0: Input should be greater than 0"),
        ("/call", b'{"name": "size", "rescale": [1, NaN]}', 400, r"rescale\.1: Input should be a finite number"),
        ("/call", b'{"name": "size", "window": [2, 2]}', 400, "window: .*white must lie above black"),
        ("/call", b"\xff", 400, "Invalid JSON"),
        ("/call", b"[" * 100_000, 400, "Invalid JSON"),
        ("/batch", b'{"calls": 3}', 400, "calls: Input should be a valid"),
        ("/batch", b'{"calls": [{"name": "size"}, {}]}', 400, r"calls\.1\.name: Field required"),
        ("/nowhere", b"{}", 404, "POST /nowhere: Not Found"),
        ("/health", b"{}", 405, "POST /health: Method Not Allowed"),
    ],
)
def test_what_is_wrong_with_a_request_is_named_once(client, place, body, status, message):
    reply = client.post(place, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    assert list(reply.json()) == ["error"]
    assert re.match(message, reply.json()["error"]), reply.json()["error"]


def test_another_content_type_is_refused(client):
    assert client.post("/call", content=b'{"name": "size"}').status_code == 415
    assert client.post("/call", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


def test_sizes_are_limited():
    big = png_base64(np.zeros((11, 10), np.uint8))
    with serving(body_bytes=2000, image_pixels=100, request_pixels=150, images=2, calls=3) as client:
        for body, status, message in [
            ({"name": "x" * 2000}, 413, "the body is longer than 2000 bytes"),
            ({"name": "size", "images": [big]}, 400, "calls.0.images.0: 10 by 11 pixels; 100 are allowed"),
            ({"name": "size", "images": [PNG] * 3}, 413, "calls.0: 3 images are too many; 2 are allowed"),
        ]:
            reply = client.post("/call", json=body)
            assert (reply.status_code, reply.json()["error"]) == (status, message)
        reply = client.post("/batch", json={"calls": [{"name": "size"}] * 4})
        assert (reply.status_code, reply.json()["error"]) == (413, "calls: 4 are too many; 3 are allowed in a batch")
        # 80 pixels fit, another 80 do not; the same image again costs nothing.
        one, other = (png_base64(np.full((8, 10), grey, np.uint8)) for grey in (1, 2))
        assert client.post("/call", json={"name": "size", "images": [one, one]}).status_code == 200
        reply = client.post("/call", json={"name": "size", "images": [one, other]})
        assert reply.json()["error"] == "calls.0.images.1: 10 by 8 pixels; 70 are allowed"


def test_a_body_without_a_length_is_not_read_past_the_limit():
    read = []

    def endless():
        for _ in range(1000):
            read.append(1)
            yield b" " * 100

    with serving(body_bytes=1000) as client:
        reply = client.post("/call", content=endless(), headers={"Content-Type": "application/json"})
    assert reply.status_code == 413


def test_a_batch_runs_as_one_and_keeps_its_order():
    seen = []

    def count(tools, calls):
        seen.append(len(calls))
        return apply(tools, calls)

    with serving(apply=count) as client:
        calls = [
            {"name": "size", "images": [PNG]},
            {"name": "fail", "arguments": {"why": "x"}},
            {"name": "turn", "images": [PNG]},
        ]
        results = client.post("/batch", json={"calls": calls}).json()["results"]
        assert client.post("/batch", json={"calls": []}).json() == {"results": []}
    assert [result["fault"] for result in results] == [None, "tool_failed", None]
    assert results[0]["text"] == "8 by 6 px" and results[2]["image"] is not None
    assert seen == [3]


def test_a_broken_apply_is_a_500_that_says_nothing_of_its_inside(caplog):
    def broken(tools, calls):
        raise RuntimeError("secret")

    with serving(apply=broken) as client:
        for place, body in (("/call", {"name": "size"}), ("/batch", {"calls": [{"name": "size"}]})):
            reply = client.post(place, json=body)
            assert (reply.status_code, reply.json()) == (500, {"error": "the server failed; its log says why"})
        assert client.get("/health").json()["waiting"] == 0
    assert "secret" in caplog.text
    with serving(apply=lambda tools, calls: []) as client:
        assert client.post("/call", json={"name": "size"}).status_code == 500


def test_metrics_count_calls_and_faults_and_no_invented_names():
    with serving() as client:
        for name in ("size", "size", "made_up", "made_up_too"):
            client.post("/call", json={"name": name, "images": [PNG]})
        client.post("/batch", json={"calls": [{"name": "size"}] * 2})
        client.post("/call", json={})
        reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    lines = dict(line.rsplit(" ", 1) for line in reply.text.splitlines() if not line.startswith("#"))
    assert lines['medvista_tool_calls_total{tool="size"}'] == "4.0"
    assert lines['medvista_tool_calls_total{tool="unknown"}'] == "2.0"
    assert lines['medvista_tool_faults_total{fault="unknown_tool",tool="unknown"}'] == "2.0"
    assert lines['medvista_tool_faults_total{fault="no_such_image",tool="size"}'] == "2.0"
    assert lines['medvista_tool_seconds_count{tool="size"}'] == "4.0"
    assert lines['medvista_requests_refused_total{status="400"}'] == "1.0"
    assert (lines["medvista_batch_calls_count"], lines["medvista_batch_calls_sum"]) == ("5.0", "6.0")
    assert (lines["medvista_calls_in_flight"], lines["medvista_calls_waiting"]) == ("0.0", "0.0")
    assert "made_up" not in reply.text


def test_only_known_hosts_are_answered():
    app = make_app(TOOLS, apply, hosts=["127.0.0.1"])
    with TestClient(app) as client:
        assert client.get("/health", headers={"Host": "127.0.0.1:8765"}).status_code == 200
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400


def play(scenario):
    return asyncio.run(asyncio.wait_for(scenario(), 10))


def named(result):
    return ToolResult(Fault.NONE, result)


def test_calls_that_arrive_together_are_one_batch_no_larger_than_allowed():
    sizes = []

    async def scenario():
        batcher = Batcher(lambda calls: [named(call.name) for call in calls], 4, 0.01, 1, 100)
        batcher.on_batch = sizes.append
        results = await asyncio.gather(*(batcher.one(ToolCall(str(n), {})) for n in range(10)))
        assert [result.text for result in results] == [str(n) for n in range(10)]

    play(scenario)
    assert sizes == [4, 4, 2]


def test_a_call_waits_a_moment_for_others():
    sizes = []

    async def scenario():
        batcher = Batcher(lambda calls: [named("") for _ in calls], 64, 0.2, 1, 100)
        batcher.on_batch = sizes.append
        calls = []
        for _ in range(3):
            calls.append(asyncio.create_task(batcher.one(ToolCall("a", {}))))
            await asyncio.sleep(0.005)
        await asyncio.gather(*calls)

    play(scenario)
    assert sizes == [3]


def test_calls_gather_while_the_threads_are_busy():
    sizes, go = [], threading.Event()

    def slow(calls):
        go.wait(5)
        return [named("") for _ in calls]

    async def scenario():
        batcher = Batcher(slow, 64, 0.0, 1, 100)
        batcher.on_batch = sizes.append
        first = asyncio.create_task(batcher.one(ToolCall("a", {})))
        await asyncio.sleep(0.02)
        rest = []
        for _ in range(5):
            rest.append(asyncio.create_task(batcher.one(ToolCall("b", {}))))
            await asyncio.sleep(0.01)
        assert (batcher.running, batcher.waiting) == (1, 5)
        rest[0].cancel()  # a client that hangs up
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, *rest[1:])
        assert (batcher.running, batcher.waiting) == (0, 0)

    play(scenario)
    assert sizes == [1, 4]


def test_too_many_calls_are_refused_and_room_comes_back():
    go = threading.Event()

    async def scenario():
        batcher = Batcher(lambda calls: (go.wait(5), [named("") for _ in calls])[1], 64, 0.0, 1, 3)
        held = asyncio.create_task(batcher.batch([ToolCall("a", {})] * 3))
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="3 calls wait or run already and 3 may"):
            await batcher.one(ToolCall("b", {}))
        go.set()
        await held
        assert (await batcher.one(ToolCall("b", {}))).fault == Fault.NONE

    play(scenario)


def test_an_overloaded_server_says_when_to_come_again():
    with serving(waiting=1) as client:
        reply = client.post("/batch", json={"calls": [{"name": "size"}] * 2})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")


def test_an_error_of_a_batch_reaches_each_of_its_calls():
    def broken(calls):
        raise StopIteration  # the one error that a future would not take

    async def scenario():
        batcher = Batcher(broken, 64, 0.0, 1, 100)
        outcomes = await asyncio.gather(*(batcher.one(ToolCall("a", {})) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [RuntimeError] * 3

    play(scenario)


USER_FILE = """
from medvista_jax.core.tool_spec import Argument
from medvista_jax.tools.host.declare import host_tool

@host_tool("Count pixels brighter than a level.", Argument("level", "0 to 255", "integer", 0, 255))
def count_bright(image, level):
    return str(sum(image.convert("L").histogram()[level + 1:]))
"""


def test_the_command_serves_a_users_tools_to_many_clients_and_stops_at_once(tmp_path):
    (tmp_path / "mine.py").write_text(USER_FILE)
    (tmp_path / "notes.txt").write_text("A white line is a pneumothorax.\n\nA blunt angle is an effusion.")
    command = [sys.executable, "-m", "medvista_jax.tools", "serve", "--port", "0"]
    command += ["--tools", str(tmp_path / "mine.py"), "--text", str(tmp_path / "notes.txt")]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())[0]
        image = np.zeros((10, 10), np.uint8)
        image[:3] = 200
        bright = {"name": "count_bright", "arguments": {"level": 100}, "images": [png_base64(image)]}
        with httpx2.Client(base_url=url, trust_env=False, timeout=120) as client:  # a device tool compiles first
            names = [tool["function"]["name"] for tool in client.get("/tools").json()]
            assert {"count_bright", "retrieve", "read_text", "zoom_in"} <= set(names)
            with concurrent.futures.ThreadPoolExecutor(12) as pool:
                replies = list(pool.map(lambda _: client.post("/call", json=bright).json(), range(24)))
            assert replies == [{"fault": None, "text": "30", "image": None}] * 24
            look_up = {"name": "retrieve", "arguments": json.dumps({"query": "effusion"})}
            assert client.post("/call", json=look_up).json()["text"] == "[1] A blunt angle is an effusion."
            zoom = {"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 1000, 200]}, "images": [png_base64(image)]}
            reply = client.post("/call", json=zoom).json()
            assert (reply["fault"], reply["text"]) == (None, "image 1")
            assert (pixels_of(reply["image"]) == 200).all()  # the bright rows alone
            page = client.get("/metrics").text
            batches = float(re.search(r"medvista_batch_calls_count (\S+)", page)[1])
            assert 'medvista_tool_calls_total{tool="count_bright"} 24.0' in page and batches < 26
            assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400
        server.send_signal(signal.SIGINT)
        _, error = server.communicate(timeout=20)
        assert (server.returncode, error) == (0, "")
    finally:
        server.kill()
        server.communicate()
