"""Models behind HTTP, against a real server on loopback that misbehaves on purpose."""

from __future__ import annotations

import base64
import datetime
import email.utils
import io
import json
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.types import Fault
from medvista_jax.tools.classify import make_classify, read_label
from medvista_jax.tools.ground import make_ground, read_boxes
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall, HostReply, ToolFailed
from medvista_jax.tools.host.endpoint import Endpoint, retry_after

PIXELS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


class Handler(BaseHTTPRequestHandler):
    """Answers with the next of the server's ``script``, the last for ever; keeps what it was sent."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script, seen = self.server.script, self.server.seen
        with self.server.lock:
            seen.append((self.path, dict(self.headers), body))
            act = script.pop(0) if len(script) > 1 else script[0]
        act(self)

    def log_message(self, *arguments):
        pass


def reply(value, status=200, **headers):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()

    def act(handler):
        handler.send_response(status)
        for name, content in {"Content-Length": str(len(raw)), **headers}.items():
            handler.send_header(name.replace("_", "-"), content)
        handler.end_headers()
        handler.wfile.write(raw)

    return act


def slow(handler):
    time.sleep(0.6)


def dribble(handler):
    """A byte now and then: no single read is slow, all of them are."""
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(12):
            handler.wfile.write(b" ")
            time.sleep(0.05)
    except OSError:
        pass


def hang_up(handler):
    handler.close_connection = True
    # With no time to linger, closing resets the connection.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.rfile, handler.wfile = io.BytesIO(), io.BytesIO()


def cut_short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"label"')
    handler.close_connection = True


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        server.handle_error = lambda *arguments: None
        server.script, server.seen, server.lock = [], [], threading.Lock()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def ask(tool, image=PIXELS, rows=1, **arguments):
    return run_batch({tool.name: tool}, [HostCall(tool.name, image, arguments)] * rows)


def classify(server, *script, retries=2, timeout_s=5.0, labels=()):
    server.script[:] = script
    tool = make_classify(Endpoint(server.url, timeout_s=timeout_s), labels, retries=retries, backoff_s=0.001)
    return ask(tool)[0]


GOOD = reply({"label": "pneumonia", "score": 0.934})


def test_a_label_comes_back_and_the_image_arrives_unchanged(server):
    assert classify(server, GOOD, labels=("Pneumonia", "normal")) == HostReply("Pneumonia 0.93")
    (path, headers, body) = server.seen[0]
    assert body["arguments"] == {"labels": ["Pneumonia", "normal"]}
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(body["image"]))))
    np.testing.assert_array_equal(sent, PIXELS)
    assert "Authorization" not in headers


@pytest.mark.parametrize("bad", [hang_up, cut_short, reply(b"busy", 500), reply(b"", 503), reply({}, 429), slow])
def test_what_may_pass_is_tried_again(server, bad):
    assert classify(server, bad, GOOD, timeout_s=0.3) == HostReply("pneumonia 0.93")
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("bad", "fault", "attempts"),
    [
        (reply(b"no", 400), Fault.TOOL_FAILED, 1),
        (reply(b"no", 401), Fault.TOOL_FAILED, 1),
        (reply(b"no", 404), Fault.TOOL_FAILED, 1),
        (reply(b"", 302, Location="http://127.0.0.1:9/"), Fault.TOOL_FAILED, 1),
        (reply(b'{"label": "x"'), Fault.TOOL_FAILED, 1),
        (reply(b"\xff\x00"), Fault.TOOL_FAILED, 1),
        (reply(b"[" * 100_000), Fault.TOOL_FAILED, 1),
        (reply([1, 2]), Fault.TOOL_FAILED, 1),
        (reply({"prediction": "x"}), Fault.TOOL_FAILED, 1),
        (reply({"label": "x", "more": "1" * (2 << 20)}), Fault.TOOL_FAILED, 1),
        (reply(b"", 429, Retry_After="3600"), Fault.TOOL_FAILED, 1),
        (reply(b"busy", 503), Fault.TOOL_FAILED, 3),
        (hang_up, Fault.TOOL_FAILED, 3),
        (slow, Fault.TOOL_TIMED_OUT, 3),
        (dribble, Fault.TOOL_TIMED_OUT, 3),
    ],
)
def test_what_stays_bad_is_a_fault(server, caplog, bad, fault, attempts):
    timeout_s = 0.1 if fault == Fault.TOOL_TIMED_OUT else 5.0
    assert classify(server, bad, timeout_s=timeout_s) == HostReply("", fault)
    assert len(server.seen) == attempts
    assert server.url in caplog.text or "classify wants" in caplog.text


def test_a_busy_server_is_left_alone_for_as_long_as_it_asks(server):
    server.script[:] = [reply(b"", 429, Retry_After="1"), GOOD]
    times = []
    tool = make_classify(server.url, backoff_s=0.001)
    times.append(time.monotonic())
    assert ask(tool)[0].text == "pneumonia 0.93"
    assert time.monotonic() - times[0] >= 1.0  # a lower bound holds on any machine


def test_retry_after_is_seconds_or_a_date():
    now = datetime.datetime.now(datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(seconds=60), usegmt=True)
    assert 50 < retry_after(later) <= 60
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [retry_after(value) for value in ("7", " 0 ", "soon", "-3", "", None)] == [7.0, 0.0, None, None, None, None]


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tool = make_classify(f"http://127.0.0.1:{port}", retries=1, backoff_s=0.001)
    assert ask(tool)[0].fault == Fault.TOOL_FAILED


def test_a_proxy_of_the_environment_is_not_used_for_loopback(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert classify(server, GOOD).text == "pneumonia 0.93"


def test_rows_of_a_batch_are_sent_at_the_same_time(server):
    together = threading.Barrier(4)

    def act(handler):
        together.wait(5)
        GOOD(handler)

    server.script[:] = [act]
    assert ask(make_classify(server.url, retries=0), rows=4) == [HostReply("pneumonia 0.93")] * 4


def chat(text):
    return reply({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


def test_a_chat_server_is_sent_the_image_as_a_data_url_and_the_key(server, monkeypatch):
    monkeypatch.setenv("MODEL_KEY", "secret")
    server.script[:] = [chat('<think>Is it "normal"?</think>\n**Normal.**')]
    endpoint = Endpoint(server.url + "/v1/", "chat", model="m", key_variable="MODEL_KEY")
    assert ask(make_classify(endpoint, ("normal", "pneumonia")))[0] == HostReply("normal")
    (path, headers, body) = server.seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "m" and body["temperature"] == 0
    image, text = body["messages"][0]["content"]
    assert text["type"] == "text" and "normal; pneumonia" in text["text"]
    head, _, encoded = image["image_url"]["url"].partition(",")
    assert (image["type"], head) == ("image_url", "data:image/png;base64")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))), PIXELS)


def test_a_key_that_is_not_set_is_named_and_one_that_is_never_logged(server, monkeypatch, caplog):
    endpoint = Endpoint(server.url, "chat", key_variable="MODEL_KEY")
    monkeypatch.delenv("MODEL_KEY", raising=False)
    assert ask(make_classify(endpoint))[0].fault == Fault.TOOL_FAILED
    assert "the environment variable MODEL_KEY" in caplog.text and not server.seen
    monkeypatch.setenv("MODEL_KEY", "secret")
    server.script[:] = [reply(b"no", 403)]
    assert ask(make_classify(endpoint))[0].fault == Fault.TOOL_FAILED
    assert "status 403" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("bad", [{}, {"choices": []}, {"choices": [{"message": {"content": None}}]}, {"choices": 3}])
def test_a_chat_reply_of_another_shape_is_a_fault(server, bad):
    server.script[:] = [reply(bad)]
    assert ask(make_classify(Endpoint(server.url, "chat")))[0].fault == Fault.TOOL_FAILED


def test_boxes_come_back_from_both_protocols(server):
    boxes = {"boxes": [[10, 20, 30.4, 40], [0, 0, 1000, 1000]], "labels": ["nodule", "lung"]}
    server.script[:] = [reply(boxes)]
    expected = HostReply("2 found: nodule [10, 20, 30, 40]; lung [0, 0, 1000, 1000]")
    assert ask(make_ground(server.url), query="a nodule")[0] == expected
    assert server.seen[0][2]["arguments"] == {"query": "a nodule"}
    as_text = '```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "nodule"}]\n```'
    server.script[:] = [chat(as_text)]
    tool = make_ground(Endpoint(server.url, "chat"))
    assert ask(tool, query="{x}")[0] == HostReply("1 found: nodule [10, 20, 30, 40]")
    assert "image: {x}." in server.seen[1][2]["messages"][0]["content"][1]["text"]
    server.script[:] = [chat("I see none.")]
    assert ask(tool, query="x")[0].fault == Fault.TOOL_FAILED
    server.script[:] = [chat("[]")]
    assert ask(tool, query="x")[0] == HostReply("nothing found")


@pytest.mark.parametrize(
    ("value", "labels", "expected"),
    [
        ({"label": "x"}, (), "x"),
        ({"label": "X", "score": 1}, ("x",), "x 1.00"),
        ({"text": "anything"}, ("x",), "anything"),
        (' "x". ', ("x",), "x"),
    ],
)
def test_labels_are_read(value, labels, expected):
    assert read_label(value, labels) == expected


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("no pneumonia", ("pneumonia",)),
        ({"label": "y"}, ("x",)),
        ({"label": " "}, ()),
        ({"label": 3}, ()),
        ({"label": "x", "score": 93}, ()),
        ({"label": "x", "score": float("nan")}, ()),
        ({"label": "x", "score": True}, ()),
        (None, ()),
    ],
)
def test_labels_that_do_not_fit_are_refused(value, labels):
    with pytest.raises(ToolFailed, match="classify"):
        read_label(value, labels)


def test_many_boxes_are_counted_and_the_first_shown():
    text = read_boxes({"boxes": [[n, 0, n + 1, 9] for n in range(50)]})
    assert text.startswith("50 found: [0, 0, 1, 9]; [1, 0, 2, 9]") and text.count("[") == 20
    assert read_boxes({"boxes": []}) == read_boxes([]) == "nothing found"


@pytest.mark.parametrize(
    "value",
    [
        {"boxes": [[0, 0, 1200, 10]]},  # pixels, not thousandths
        {"boxes": [[0.1, 0.1, 0.4, 0.4]]},  # fractions
        {"boxes": [[5, 5, 5, 9]]},
        {"boxes": [[9, 0, 5, 9]]},
        {"boxes": [[0, 0, 5]]},
        {"boxes": [[0, 0, float("nan"), 5]]},
        {"boxes": [["0", 0, 5, 5]]},
        {"boxes": [[0, 0, 5, 5]], "labels": ["a", "b"]},
        {"boxes": [[0, 0, 5, 5]], "labels": [1]},
        {"boxes": 3},
        [{"box": [0, 0, 5, 5]}],
        [{"bbox_2d": [0, 0, 5, 5], "label": 3}],
        None,
    ],
)
def test_boxes_of_another_shape_or_frame_are_refused(value):
    with pytest.raises(ToolFailed, match="ground"):
        read_boxes(value)


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "ftp://host/x", "http://", ""])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ValueError, match="is not an address such as"):
        make_ground(address)
