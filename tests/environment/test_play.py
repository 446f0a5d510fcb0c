"""An endpoint plays: against a server that refuses whatever the protocol does not allow."""

from __future__ import annotations

import datetime
import email.utils
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from medvista_jax.environment.__main__ import main
from medvista_jax.environment.chat_endpoint import ChatEndpoint, EndpointError, RequestFailed, _retry_after
from medvista_jax.environment.conversation import NativeConversation, converse, names
from medvista_jax.environment.episodes import Episodes, Opening
from medvista_jax.environment.items import Item
from medvista_jax.environment.play import RecordError, Records, Table
from medvista_jax.environment.play_report import as_text, summarise
from medvista_jax.text.dialects.openai import SUPERSEDED
from medvista_jax.tools.registry import ALL_TOOLS
from tests.environment.boards import BUCKETS, answer, noise, zoom
from tests.environment.chat_server import Say, Server, check, images_of, serving, texts_of, tool_call

ZOOM = {"bbox_2d": [500, 0, 1000, 500]}
LEFT = Say(content="<think>seen</think><answer>left</answer>")
SETTING = {
    "model": "stub",
    "questions": "boards",
    "split": None,
    "dialect": "native",
    "tools": ["zoom_in"],
    "turns": 4,
    "view_size": 16,
    "body": {"temperature": 0.0},
}


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    return Episodes(["zoom_in"], rows=3, view_size=16, turns=4, buckets=BUCKETS)


@pytest.fixture(scope="module")
def bare() -> Episodes:
    return Episodes((), rows=1, view_size=16, buckets=BUCKETS)


def boards(*questions: str) -> list[Item]:
    return [Item(q, "left", [noise(k, 32, 32)], f"board/{q}") for k, q in enumerate(questions)]


def play(server: Server, episodes: Episodes, folder, script_items, dialect="native", resume=False, **endpoint):
    endpoint = {"timeout_s": 20.0, "retries": 2, "backoff_s": 0.01, "body": {"temperature": 0.0}} | endpoint
    records = Records(folder, SETTING, resume)
    table = Table(episodes, ChatEndpoint(server.url, "stub", **endpoint), dialect, records)
    done = {record["item"] for record in records.kept}
    outcome = table.play(script_items, [k for k, item in enumerate(script_items) if item.id not in done])
    return {record["item"].removeprefix("board/"): record for record in records.kept}, outcome


SCRIPT = {
    "zooms": [Say(content="I look.", calls=(tool_call("zoom_in", ZOOM),)), LEFT],
    "answers": [LEFT],
    "wrong": [Say(content="<answer>right</answer>")],
    "broken": [Say(calls=(tool_call("zoom_in", '{"bbox_2d": [500, 0'),)), LEFT],
    "two": [
        Say(calls=(tool_call("zoom_in", {"bbox_2d": [0, 0, 9, 9]}, "same"), tool_call("zoom_in", ZOOM, "same"))),
        LEFT,
    ],
    "no id": [Say(calls=(tool_call("zoom_in", ZOOM, None),)), LEFT],
    "busy": [Say(status=500, once=True), Say(status=429, headers={"Retry-After": "0"}, once=True), LEFT],
    "words": [Say(content="It is on the left."), LEFT],
    "never": [Say(calls=(tool_call("zoom_in", ZOOM, f"c{k}"),)) for k in range(4)],
    "unknown": [Say(calls=(tool_call("draw", {}),)), LEFT],
    "parts": [Say(content=[{"type": "text", "text": "<answer>left</answer>"}])],
}


@pytest.fixture(scope="module")
def played(episodes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("play")
    with serving(SCRIPT) as server:
        records, outcome = play(server, episodes, folder, boards(*SCRIPT), key="secret-key")
    assert server.refused == [] and outcome.failed == [] and not outcome.stopped
    return server, records, folder


def test_every_script_is_played_to_its_end(played):
    _, records, _ = played
    assert {name: record["correct"] for name, record in records.items()} == {
        name: name not in ("wrong", "never") for name in SCRIPT
    }
    assert records["wrong"]["answer"] == "right" and not records["wrong"]["truncated"]
    assert records["never"]["truncated"] and records["never"]["answer"] == ""
    assert {name: record["faults"] for name, record in records.items() if record["faults"]} == {
        "broken": ["malformed"],
        "words": ["no_action"],
        "unknown": ["unknown_tool"],
        "never": ["no_calls_left"],
    }
    assert [len(records[name]["calls"]) for name in ("zooms", "answers", "two", "never")] == [1, 0, 1, 4]
    assert records["zooms"]["calls"] == [{"tool": "zoom_in", "fault": "none"}]
    assert records["busy"]["attempts"] == 3 and records["busy"]["turns"] == 1
    assert records["zooms"]["usage"] == {"prompt_tokens": 200, "completion_tokens": 14, "total_tokens": 214}


def test_a_zoom_shows_the_pixels_that_were_asked_for(played):
    server, records, folder = played
    pixels = noise(0, 32, 32)[..., 0]
    first, second = server.requests["zooms"]
    assert [len(images_of(request)) for request in (first, second)] == [1, 2]
    np.testing.assert_array_equal(images_of(second)[1], pixels[:16, 16:])  # one view pixel a pixel
    assistant, tool, user = second["messages"][2:]
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == "call_a" and assistant["content"] == "I look."
    assert (tool["role"], tool["content"], user["role"]) == ("tool", "image 1", "user")
    assert first["tools"] == [ALL_TOOLS["zoom_in"].spec.schema()] and first["tool_choice"] == "auto"
    assert first["temperature"] == 0.0
    saved = [np.asarray(Image.open(folder / file)) for file in records["zooms"]["images"]]
    for one, other in zip(saved, images_of(second), strict=True):
        np.testing.assert_array_equal(one, other)


def test_broken_arguments_are_an_observation_and_go_back_as_json(played):
    server, _, _ = played
    assistant, tool = server.requests["broken"][1]["messages"][2:4]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"broken": '{"bbox_2d": [500, 0'}
    assert tool["content"] == "error: the call is not valid JSON"


def test_of_two_calls_the_last_is_carried_out_and_both_are_replied_to(played):
    server, records, _ = played
    assistant, first, second, user = server.requests["two"][1]["messages"][2:]
    assert [call["id"] for call in assistant["tool_calls"]] == [first["tool_call_id"], second["tool_call_id"]]
    assert len({first["tool_call_id"], second["tool_call_id"]}) == 2  # the model gave one id to both
    assert (first["content"], second["content"]) == (SUPERSEDED, "image 1")
    pixels = noise(list(SCRIPT).index("two"), 32, 32)[..., 0]
    np.testing.assert_array_equal(images_of({"messages": [user]})[0], pixels[:16, 16:])
    assert len(records["two"]["images"]) == 2


def test_the_last_turn_is_a_request_for_an_answer(played):
    server, _, _ = played
    requests = server.requests["never"]
    assert [request["tool_choice"] for request in requests] == ["auto", "auto", "auto", "none"]
    tool, user = requests[3]["messages"][-2:]
    assert tool["content"] == "image 3, answer now" and "Answer now" in texts_of(user)
    assert all(request["tools"] for request in requests)


def test_words_without_a_call_or_an_answer_are_told_so(played):
    server, _, _ = played
    assistant, user = server.requests["words"][1]["messages"][2:]
    assert assistant == {"role": "assistant", "content": "It is on the left."}
    assert texts_of(user) == "error: no call and no answer"


def test_records_hold_the_talk_without_pixels_and_without_the_key(played):
    server, records, folder = played
    assert server.keys == {"Bearer secret-key"}
    text = (folder / "episodes.jsonl").read_text()
    assert "secret-key" not in text and "base64" not in text
    (image,) = [
        part["image_url"]["url"] for part in records["answers"]["messages"][1]["content"] if part["type"] == "image_url"
    ]
    assert (folder / image).is_file() and records["answers"]["messages"][-1]["content"] == LEFT.content
    assert records["zooms"]["key"] == "left" and records["zooms"]["question"] == "zooms"


def test_no_request_holds_the_answer(episodes, tmp_path):
    item = Item("secret", "xyzzy 42", [noise(0, 32, 32)], "board/secret")
    with serving({"secret": [Say(content="well"), Say(content=answer("xyzzy 42"))]}) as server:
        records, _ = play(server, episodes, tmp_path, [item])
    assert records["secret"]["correct"] and "xyzzy" not in json.dumps(server.requests["secret"])


def test_the_table_counts_what_was_played(played):
    _, records, _ = played
    summary = summarise(list(records.values()), SETTING)
    assert (summary["n"], summary["correct"], summary["truncated"]) == (11, 9, 1)
    # Wilson by hand: centre (9 + 1.92073) / (11 + 3.84146) = 0.73582, half width 0.21305.
    assert summary["ci95"] == pytest.approx((0.5230, 0.9486), abs=2e-4)
    assert summary["calls_per_question"] == pytest.approx(9 / 11)
    assert summary["faults"] == {"malformed": 1, "no_action": 1, "no_calls_left": 1, "unknown_tool": 1}
    text = as_text(summary, [("a", "b")])
    assert "81.8 % (9 of 11; 95 % Wilson 52.3 to 94.9 %)" in text
    assert "boards, split all, n 11; exact match in normal form; tools on (zoom_in); 4 turns" in text
    assert "model stub, dialect native; temperature 0.0" in text
    assert as_text(summarise([], SETTING)) == "no episode has finished"


def test_our_own_words_as_text(episodes, tmp_path):
    script = {"text": [Say(content=f"<think>there</think>{zoom(500, 0, 1000, 500)}"), LEFT]}
    with serving(script) as server:
        records, _ = play(server, episodes, tmp_path, boards("text"), "text")
    assert records["text"]["correct"] and server.refused == []
    first, second = server.requests["text"]
    assert "tools" not in first and '"name": "zoom_in"' in first["messages"][0]["content"]
    assert texts_of(second["messages"][-1]).replace("\n", "") == "<tool_response>image 1</tool_response>"
    np.testing.assert_array_equal(images_of(second)[1], noise(0, 32, 32)[:16, 16:, 0])


def test_a_foreign_dialect_is_spoken(episodes, tmp_path):
    """Mini-o3's grounding in parts of one."""
    grounding = '<grounding>{"bbox_2d": [0.5, 0.0, 1.0, 0.5], "source": "original_image"}</grounding>'
    (name,) = [name for name in names() if name.startswith("mini")]
    with serving({"foreign": [Say(content=grounding), LEFT]}) as server:
        records, _ = play(server, episodes, tmp_path, boards("foreign"), name)
    first, second = server.requests["foreign"]
    assert "<grounding>" in first["messages"][0]["content"]
    np.testing.assert_array_equal(images_of(second)[1], noise(0, 32, 32)[:16, 16:, 0])
    assert records["foreign"]["correct"] and records["foreign"]["calls"] == [{"tool": "zoom_in", "fault": "none"}]


def test_without_tools_none_is_offered(bare, tmp_path):
    with serving({"plain": [LEFT]}) as server:
        records, _ = play(server, bare, tmp_path, boards("plain"))
    (request,) = server.requests["plain"]
    assert "tools" not in request and "tool_choice" not in request and "tool" not in request["messages"][0]["content"]
    assert records["plain"]["correct"]


def test_several_images_are_numbered(episodes, tmp_path):
    item = Item("both", "left", [noise(0, 32, 32), noise(1, 32, 32)], "board/both")
    with serving({"both": [LEFT]}) as server:
        play(server, episodes, tmp_path, [item])
    content = server.requests["both"][0]["messages"][1]["content"]
    assert [part.get("text", "image") for part in content] == ["image 0:", "image", "image 1:", "image", "both"]


def test_an_item_that_hangs_fails_and_is_tried_again_on_resume(episodes, tmp_path):
    items = boards("hangs", "answers")
    script = {"hangs": [Say(content=answer("left"), hang_s=30.0, once=True), LEFT], "answers": [LEFT]}
    with serving(script) as server:
        records, outcome = play(server, episodes, tmp_path, items, timeout_s=0.3, retries=0)
        assert set(records) == {"answers"}
        assert outcome.failed == [("board/hangs", f"{server.url}: no answer within 0.3 s (1 attempts)")]
        with pytest.raises(RecordError, match="holds 1 finished episodes: go on with --resume"):
            Records(tmp_path, SETTING)
        with pytest.raises(RecordError, match="played with view_size = 16, not 32"):
            Records(tmp_path, {**SETTING, "view_size": 32}, resume=True)
        with (tmp_path / "episodes.jsonl").open("a") as file:
            file.write('{"item": "board/to')  # as if killed while it wrote
        records, outcome = play(server, episodes, tmp_path, items, resume=True)
    assert set(records) == {"answers", "hangs"} and outcome.failed == []
    assert len(server.requests["answers"]) == 1
    lines = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == ["board/answers", "board/hangs"]


def test_a_refusal_ends_the_run_with_the_servers_words(episodes, tmp_path):
    refusal = Say(status=401, raw=b'{"error": {"message": "no such key"}}')
    with serving({"answers": [LEFT], "denied": [refusal]}) as server:
        with pytest.raises(EndpointError, match="HTTP 401 Unauthorized: no such key; is the key right"):
            play(server, episodes, tmp_path, boards("denied"))
        records, _ = play(server, episodes, tmp_path, boards("answers"))  # the rows are free again
    assert records["answers"]["correct"]


@pytest.mark.parametrize("raw", [b"<html>hello</html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": 3}]}'])
def test_what_is_no_completion_is_shown(raw):
    with serving(lambda request: Say(raw=raw)) as server:
        with pytest.raises(EndpointError, match="something that is no chat completion"):
            complete(server.url)


def complete(url: str, **kwargs):
    user = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    return ChatEndpoint(url, "m", backoff_s=0.01, **kwargs).complete([{"role": "system", "content": "s"}, user])


def test_a_server_that_stays_busy_fails_the_request():
    with serving(lambda request: Say(status=503)) as server:
        with pytest.raises(RequestFailed, match=r"HTTP 503 .*the server is busy \(3 attempts\)"):
            complete(server.url, retries=2)


def test_a_server_that_is_down_for_good_ends_the_run(episodes, tmp_path):
    items = boards(*"abcdefgh")
    with serving(lambda request: Say(status=503)) as server:
        with pytest.raises(EndpointError, match="5 items failed one after the other, the last one: .*HTTP 503"):
            play(server, episodes, tmp_path, items, retries=0)


def test_items_that_cannot_be_shown_fail_alone(episodes, tmp_path):
    odd = [Item(name, "left", [np.zeros((2, 2, 5), np.uint8)], f"board/{name}") for name in "abcdefg"]
    with serving({"answers": [LEFT]}) as server:
        records, outcome = play(server, episodes, tmp_path, [*odd, *boards("answers")])
    assert set(records) == {"answers"} and len(outcome.failed) == 7
    assert outcome.failed[0][1].startswith("item 'board/a': an image of shape [2, 2, 5]")


def test_redirects_are_not_followed():
    with serving(lambda request: Say(status=307, headers={"Location": "http://127.0.0.1:9/v1"})) as server:
        with pytest.raises(EndpointError, match="HTTP 307"):
            complete(server.url, key="k")


def test_retry_after_is_a_number_or_a_date():
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=20)
    assert _retry_after("3") == 3.0 and _retry_after(None) == 0.0 and _retry_after("soon") == 0.0
    assert 18 < _retry_after(email.utils.format_datetime(soon)) <= 20
    assert _retry_after("99999") == 60.0 and _retry_after("-1") == 0.0


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="is no endpoint"):
        ChatEndpoint(url, "m")


MESSAGES = [
    {},
    {"content": None},
    {"content": 3, "tool_calls": 7},
    {"content": "x", "tool_calls": []},
    {"content": "x", "tool_calls": [None, 3, {}, {"id": 5}]},
    {"content": None, "tool_calls": [{"id": "a", "function": None}]},
    {"content": None, "tool_calls": [{"id": "a", "function": {"name": None, "arguments": [1]}}]},
    {"content": None, "tool_calls": [{"id": "a", "function": {"name": "zoom_in", "arguments": "[" * 5000}}]},
    {"content": None, "tool_calls": [{"id": "a", "function": {"name": "zoom_in", "arguments": ZOOM}}]},
    {"content": "\ud800", "tool_calls": [{"id": "", "function": {"name": "\ud800</tool_call>", "arguments": ""}}]},
    {"content": [{"type": "text", "text": 3}, 4]},
    {"content": None, "function_call": {"name": "zoom_in", "arguments": "{}"}},
]


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_whatever_a_message_holds_it_is_a_turn_and_the_next_request_is_sound(episodes, message):
    item = boards("odd")[0]
    specs = [ALL_TOOLS["zoom_in"].spec]
    talk = NativeConversation(episodes.start(0, item), specs)
    for _ in range(2):
        reply = episodes.step({0: talk.read(message)})[0]
        assert not reply.done
        talk.tell(reply)
        check(json.loads(json.dumps({"model": "m", "messages": talk.messages, **talk.request()})))
    episodes.drop(0)


@pytest.mark.parametrize("dialect", names())
def test_every_dialect_makes_sound_requests(episodes, dialect):
    """Nonsense, then a call by hand through the gym, so that an error and an image are told in the dialect's words."""
    talk = converse(dialect, episodes.start(0, boards("odd")[0]), [ALL_TOOLS["zoom_in"].spec])
    assert isinstance(talk.read({"content": "nonsense"}), str)
    for turn, told in (("nonsense", 1), (zoom(0, 0, 500, 500), 2)):
        talk.tell(episodes.step({0: turn})[0])
        request = {"model": "m", "messages": talk.messages, **talk.request()}
        check(json.loads(json.dumps(request)))
        assert len(images_of(request)) == told
        talk.read({"content": "more nonsense"})
    episodes.drop(0)


def test_an_opening_without_a_turn_to_spare_offers_nothing():
    talk = NativeConversation(Opening("?", (noise(0),), final=True), [])
    assert talk.request() == {} and "tool" not in talk.messages[0]["content"]


def folder_of_questions(path, count: int) -> None:
    for k in range(count):
        Image.fromarray(noise(k, 32, 32)[..., 0]).save(path / f"{k}.png")
    rows = [{"id": f"q{k}", "image": f"{k}.png", "question": f"q{k}", "answer": "left"} for k in range(count)]
    (path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def arguments_of(url: str, questions, out, *more: str) -> list[str]:
    options = ["--tools", "zoom_in", "--view-size", "16", "--turns", "3", "--concurrency", "2"]
    return [
        "play",
        "--endpoint",
        url,
        "--model",
        "m",
        "--questions",
        str(questions),
        "--out",
        str(out),
        *options,
        *more,
    ]


def test_the_command_plays_stops_and_goes_on(tmp_path):
    """The real command: Ctrl-C while a request hangs, then --resume."""
    folder_of_questions(tmp_path, 3)
    first = Say(content=answer("left"), hang_s=60.0, once=True)
    script = {
        "q0": [Say(calls=(tool_call("zoom_in", ZOOM),)), LEFT],
        "q1": [LEFT],
        "q2": [first, Say(content=answer("right"))],
    }
    out = tmp_path / "runs"
    with serving(script) as server:
        command = [sys.executable, "-m", "medvista_jax.environment", *arguments_of(server.url, tmp_path, out)]
        command += ["--temperature", "0", "--max-tokens", "99", "--body", '{"seed": 1}', "--api-key-env", "MINE"]
        environment = {**os.environ, "MINE": "key"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        kept = out / "episodes.jsonl"
        while process.poll() is None and not (kept.exists() and kept.read_text().count("\n") == 2):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=60)
        assert process.returncode == 130, complaints
        assert "2 of 3 finished" in complaints and "--resume goes on" in complaints and "Traceback" not in complaints
        assert "100.0 % (2 of 2" in said
        done = subprocess.run([*command, "--resume"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "66.7 % (2 of 3; 95 % Wilson" in done.stdout and "split all, n 3;" in done.stdout
    assert "temperature 0.0" in done.stdout and "seed 1" in done.stdout
    assert server.refused == [] and server.keys == {"Bearer key"}
    request = server.requests["q0"][0]
    assert (request["max_tokens"], request["seed"], request["temperature"]) == (99, 1, 0.0)
    assert json.loads((out / "summary.json").read_text())["correct"] == 2


def test_nobody_there_is_one_line(tmp_path, capsys):
    folder_of_questions(tmp_path, 1)
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        assert main([*arguments_of(url, tmp_path, tmp_path / "out"), "--no-tools"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        f"medvista_jax.environment play: {url}: connection refused; is the server running, and on this port?" in lines
    )


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--dialect", "klingon"), "no dialect 'klingon'; there are native, text, deepeyes"),
        (("--tools", "saw"), "no tool 'saw'; there are zoom_in"),
        (("--body", "{"), "--body is no JSON"),
        (("--body", "3"), "--body is a JSON object"),
        (("--items", "0"), "0 items; at least one is needed"),
        (("--turns", "0"), "must be at least 1"),
        (("--concurrency", "0"), "0 episodes; at least one row is needed"),
        (("--timeout", "0"), "timeout must be positive"),
        (("--endpoint", "here"), "'here' is no endpoint"),
        (("--questions", "/nowhere"), "no questions at /nowhere"),
    ],
)
def test_a_users_slip_is_one_line(tmp_path, capsys, more, what):
    folder_of_questions(tmp_path, 1)
    assert main([*arguments_of("http://127.0.0.1:9/v1", tmp_path, tmp_path / "out"), *more]) == 2
    said = capsys.readouterr().err
    assert what in said and said.count("\n") == 1
