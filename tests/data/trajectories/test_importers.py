"""Literal rows of other projects' formats, and their traps."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from medvista_jax.data.files import BadFile
from medvista_jax.data.trajectories import Source, TrajectoryPool, messages, sharegpt, verl
from medvista_jax.data.trajectories.foreign import Reading, Rejected, boxed, read_rows
from medvista_jax.text.chat import CompactChat
from tests import tiny

SOURCE = Source("file", "rows.jsonl, line 1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, size, value in (("a.png", (200, 100), 10), ("b.png", (16, 16), 20), ("c.png", (40, 30), 30)):
        Image.new("L", size, value).save(folder / name)
    return folder


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (20, 10), value).save(file, "PNG")
    return file.getvalue()


def shade(ref) -> int:
    return int(ref.load().pixels_YXC[0, 0, 0])


def read(module, row, folder, **settings):
    return module.read_row(row, "set/7", Reading(folder=folder, **settings), SOURCE)


CALL = {"id": "1", "type": "function", "function": {"name": "zoom_in", "arguments": '{"bbox_2d": [0, 0, 500, 500]}'}}
MESSAGES = {
    "messages": [
        {"role": "system", "content": "You are a radiologist."},
        {"role": "user", "content": "<image>Where is it? left or right"},
        {"role": "assistant", "content": "<think>closer</think>", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "<image>"},
        {"role": "assistant", "content": "<think>there</think><answer>left</answer>"},
    ],
    "images": ["a.png", "b.png"],
    "tools": [{"type": "function", "function": {"name": "zoom_in", "parameters": {"type": "object"}}}],
    "answer": "Left",
}
ZOOMED = '<think>closer</think><tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500]}}</tool_call>'


def changed(index: int, row=MESSAGES, **message) -> dict:
    """The row with one message changed."""
    entries = [dict(entry) for entry in row["messages"]]
    entries[index] |= message
    return row | {"messages": entries}


def test_messages(folder):
    record = read(messages, MESSAGES, folder)
    assert (record.id, record.question, record.system) == (
        "set/7",
        "Where is it? left or right",
        "You are a radiologist.",
    )
    assert [turn.text for turn in record.turns] == [ZOOMED, "<think>there</think><answer>left</answer>"]
    assert record.turns[0].observation.text == "image 1" and record.turns[1].observation is None
    assert [shade(image) for image in record.shown()] == [10, 20] and len(record.images) == 1
    assert record.tools == ("zoom_in",) and record.answer == "Left"
    outcome = record.outcome
    assert (outcome.answer, outcome.correct, outcome.well_formed, outcome.truncated) == ("left", True, True, False)
    assert record.notes == () and record.source.dialect == "openai" and record.turns[0].ids is None


@pytest.mark.parametrize(
    "row",
    [
        changed(2, tool_calls=[{**CALL, "function": {"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500]}}}]),
        changed(2, tool_calls=None, function_call=CALL["function"]),
        changed(2, content=None, reasoning_content="closer"),
        changed(2, content=ZOOMED, tool_calls=[]),
        changed(3, role="user", content="<tool_response>\n<image>\n</tool_response>"),
        changed(3, role="function", name="zoom_in", content="<image>"),
        changed(1, content=[{"type": "image"}, {"type": "text", "text": "Where is it? left or right"}]),
        MESSAGES | {key: json.dumps(MESSAGES[key]) for key in ("messages", "tools")},
    ],
    ids=["object", "function_call", "reasoning", "tags", "user", "function", "parts", "text columns"],
)
def test_the_ways_to_say_the_same(folder, row):
    record = read(messages, row, folder)
    assert [turn.text for turn in record.turns] == [turn.text for turn in read(messages, MESSAGES, folder).turns]
    assert record.turns[0].observation.text == "image 1" and [shade(one) for one in record.shown()] == [10, 20]
    assert record.question == "Where is it? left or right" and record.tools == ("zoom_in",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (MESSAGES | {"images": ["a.png"]}, "fewer images than <image> marks"),
        (MESSAGES | {"images": ["a.png", "b.png", "c.png"]}, "more images than <image> marks"),
        (MESSAGES | {"images": ["a.png", "none.png"]}, "an image whose file is missing"),
        (MESSAGES | {"images": ["a.png", "https://x.org/b.png"]}, "an image that is an address on the web"),
        (MESSAGES | {"images": ["a.png", {"bytes": None, "path": None}]}, "an image without bytes and without a path"),
        (changed(1, content="Where?") | {"images": ["b.png"]}, "a question without an image"),
        (changed(4, content="<image> left"), "fewer images than <image> marks"),
        (changed(4, content="<image> left") | {"images": ["a.png"] * 3}, "the assistant writes <image>"),
        (changed(3, content="<image><image>") | {"images": ["a.png"] * 3}, "several images come back after one turn"),
        (MESSAGES | {"messages": MESSAGES["messages"][:4]}, "ends with a message that nobody answers"),
        (MESSAGES | {"messages": MESSAGES["messages"][:3], "images": ["a.png"]}, "ends with a call"),
        (MESSAGES | {"messages": MESSAGES["messages"][:2], "images": ["a.png"]}, "no turn of the assistant"),
        (changed(2, content="<answer>x</answer>", tool_calls=[]), "goes on after an answer"),
        (changed(2, content="Hm.", tool_calls=[]), "a turn that neither calls nor answers, in the middle"),
        (changed(2, tool_calls=[{"function": {"name": "zoom_in", "arguments": "{"}}]), "a call that is no JSON"),
        (changed(4, content=""), "the last turn is empty"),
        (changed(0, role="narrator"), "an unknown role 'narrator'"),
        (changed(1, content=[{"type": "video", "video": "v.mp4"}]), "a part of a content of the kind 'video'"),
        (changed(1, content=7), "a content of type int"),
        (MESSAGES | {"messages": "{"}, "messages that are no JSON"),
        (MESSAGES | {"messages": []}, "no messages"),
        (MESSAGES | {"tools": "["}, "tools that are no JSON"),
        (None, "is no JSON object"),
    ],
)
def test_rows_that_teach_something_wrong_are_rejected(folder, row, reason):
    with pytest.raises(Rejected, match=f"^{reason}"):
        read(messages, row, folder)


def test_a_last_turn_without_tags_is_the_answer_unless_tags_are_wanted(folder):
    row = changed(4, content="<think>there</think> It is \\boxed{\\text{left}}.")
    record = read(messages, row, folder)
    assert record.turns[1].text == "<think>there</think><answer>\\text{left}</answer>"
    assert record.outcome.correct is False and any("taken for the answer" in note for note in record.notes)
    with pytest.raises(Rejected, match="the last turn has no <answer>"):
        read(messages, row, folder, answers="tags")
    assert boxed("a \\boxed{1} b \\boxed{x^{2}}") == "x^{2}" and boxed("\\boxed{") is None and boxed("no") is None


def test_missing_answers_leave_the_outcome_open(folder):
    record = read(messages, {key: value for key, value in MESSAGES.items() if key != "answer"}, folder)
    assert record.answer is None and record.outcome.correct is None and record.outcome.answer == "left"


def test_marks_amid_the_question_become_numbers(folder):
    row = changed(1, content="<image>Compare it with <image> here.<image>") | {
        "images": ["a.png", "c.png", "b.png", "b.png"]
    }
    record = read(messages, row, folder)
    assert record.question == "Compare it with (image 1) here."
    assert [shade(image) for image in record.images] == [10, 30, 20]
    assert record.turns[0].observation.text == "image 3"
    unmarked = {
        "messages": [{"role": "user", "content": "Which?"}, {"role": "assistant", "content": "<answer>A</answer>"}],
        "images": "a.png",
    }
    record = read(messages, unmarked, folder)
    assert shade(record.images[0]) == 10 and any("no mark" in note for note in record.notes)


def test_images_of_every_kind(folder):
    address = "data:image/png;base64," + base64.b64encode(png(40)).decode()
    for image, expected in (
        ({"bytes": png(50), "path": "gone.png"}, 50),
        ({"bytes": None, "path": "c.png"}, 30),
        (png(60), 60),
        (address, 40),
        (f"file://{folder}/c.png", 30),
    ):
        assert shade(read(messages, MESSAGES | {"images": [image, "b.png"]}, folder).images[0]) == expected
    part = {"type": "image_url", "image_url": {"url": address}}
    row = changed(1, content=[part, {"type": "text", "text": "Where?"}]) | {"images": ["b.png"]}
    record = read(messages, row, folder)
    assert [shade(image) for image in record.shown()] == [40, 20]


def test_calls_of_another_dialect_become_ours(folder):
    """DeepEyes counts pixels of the image, which is 200 by 100 here, and calls the zoom by another name."""
    call = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [20, 50, 120, 100], "label": "it"}}
    row = changed(2, content=f"<think>closer</think><tool_call>{json.dumps(call)}</tool_call>", tool_calls=None)
    row = row | {"tools": [{"name": "image_zoom_in_tool", "parameters": {}}]}
    record = read(messages, row, folder, dialect="deepeyes")
    assert '{"name": "zoom_in", "arguments": {"bbox_2d": [100, 500, 600, 1000]' in record.turns[0].text
    assert record.tools == ("zoom_in",) and record.outcome.well_formed
    by_calls = changed(2, content="<think>closer</think>", tool_calls=[{"function": call}])
    assert read(messages, by_calls, folder, dialect="deepeyes").turns[0].text == record.turns[0].text
    foreign = read(messages, row, folder)  # in no dialect: the tool stays what it is
    assert (
        "image_zoom_in_tool" in foreign.turns[0].text and foreign.tools[0]["function"]["name"] == "image_zoom_in_tool"
    )
    assert "a call that our environment would refuse: unknown tool" in foreign.notes


def test_a_tools_words_are_the_observation_and_carry_no_loss(folder):
    row = changed(3, content='mean 12.5 <tool_call>{"name": "zoom_in"}</tool_call>') | {"images": ["a.png"]}
    record = read(messages, row, folder)
    assert record.turns[0].observation.image is None
    pool = TrajectoryPool([record], tiny.MODEL, tiny.environment(), CompactChat(tiny.TOKENIZER), slots=200)
    batch, pixels = pool.batch(np.arange(1))
    said = tiny.TOKENIZER.decode(batch.tokens_BS[0][batch.sampled_BS[0]].tolist())
    assert said == "".join(turn.text for turn in record.turns)
    heard = batch.tokens_BS[0][batch.valid_BS[0] & ~batch.sampled_BS[0]].tolist()
    assert "mean 12.5" in tiny.TOKENIZER.decode(heard)
    assert tiny.TOKENIZER.special["<tool_call>"] not in heard  # a tag in a tool's words acts as no tag
    assert batch.views.count_B.tolist() == [1] and (pixels[0, 0] == 10).all()


def test_an_imported_conversation_as_a_training_batch(folder):
    pool = TrajectoryPool(
        [read(messages, MESSAGES, folder)], tiny.MODEL, tiny.environment(), CompactChat(tiny.TOKENIZER), slots=200
    )
    batch, pixels = pool.batch(np.array([0, 0]))
    assert batch.sampled_BS[0].sum() == sum(len(tiny.TOKENIZER.encode(turn.text)) for turn in pool.records[0].turns)
    width = tiny.MODEL.tokens_per_image
    shown = batch.feature_BS[0][batch.feature_BS[0] >= 0].tolist()
    assert shown == list(range(2 * width))  # the question's image, then the returned one
    assert set(batch.tokens_BS[0][batch.feature_BS[0] >= 0].tolist()) == {tiny.TOKENIZER.special["<|image_pad|>"]}
    assert batch.turns.kind_BR[0].tolist() == [1, 2, 0] and bytes(batch.answer_BN[0][:4]) == b"left"
    assert (pixels[:, 0] == 10).all() and (pixels[:, 1] == 20).all() and (pixels[:, 2] == 0).all()


SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "<image>Where is it?"},
        {"from": "function_call", "value": '{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500]}}'},
        {"from": "observation", "value": "<image>"},
        {"from": "gpt", "value": "It is on the left."},
    ],
    "images": ["a.png", "b.png"],
    "system": "You are a radiologist.",
    "tools": '[{"name": "zoom_in", "description": "…", "parameters": {"type": "object"}}]',
}


def test_sharegpt(folder):
    record = read(sharegpt, SHAREGPT, folder)
    assert record.system == "You are a radiologist." and record.tools == ("zoom_in",)
    assert [turn.text for turn in record.turns] == [
        ZOOMED.replace("closer", ""),
        "<think></think><answer>It is on the left.</answer>",
    ]
    assert record.turns[0].observation.text == "image 1" and shade(record.turns[0].observation.image) == 20


def test_sharegpt_traps(folder):
    entries = SHAREGPT["conversations"]
    thought = {"from": "gpt", "value": "<think>closer</think>"}
    record = read(sharegpt, SHAREGPT | {"conversations": [entries[0], thought, *entries[1:]]}, folder)
    assert record.turns[0].text == ZOOMED and len(record.turns) == 2
    several = '[{"name": "flip", "arguments": {}}, {"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500]}}]'
    record = read(
        sharegpt, SHAREGPT | {"conversations": [entries[0], {**entries[1], "value": several}, *entries[2:]]}, folder
    )
    assert "zoom_in" in record.turns[0].text and "2 calls: the last one counts" in record.notes
    second = [*entries, {"from": "human", "value": "And now?"}, {"from": "gpt", "value": "Still."}]
    with pytest.raises(Rejected, match="a turn that neither calls nor answers, in the middle"):
        read(sharegpt, SHAREGPT | {"conversations": second}, folder)
    with pytest.raises(Rejected, match="function calls that are no JSON"):
        read(sharegpt, SHAREGPT | {"conversations": [entries[0], {**entries[1], "value": "{"}, *entries[2:]]}, folder)
    with pytest.raises(Rejected, match="a tool's result before any turn"):
        read(sharegpt, SHAREGPT | {"conversations": [entries[0], *entries[2:]]}, folder)
    with pytest.raises(Rejected, match="no conversations"):
        read(sharegpt, {"messages": []}, folder)


VERL = {
    "data_source": "hiyouga/geometry3k",
    "agent_name": "tool_agent",
    "prompt": [
        {"role": "system", "content": "You are a math expert."},
        {"role": "user", "content": "<image>Find x. You FIRST think …"},
    ],
    "images": [{"bytes": png(70), "path": None}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "42"},
    "extra_info": {
        "split": "train",
        "index": 3,
        "answer": "42",
        "question": "Find x.",
        "need_tools_kwargs": True,
        "tools_kwargs": {
            "image_zoom_in_tool": {"create_kwargs": {"ground_truth": "SECRET"}},
            "calc_geo3k_reward": {"create_kwargs": {"ground_truth": "SECRET"}},
            "unused": None,
        },
    },
}


def test_verl_rows_are_questions(folder, tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([VERL]), path)
    ((number, row),) = read_rows(path)
    for given in (VERL, row):
        record = read(verl, given, folder)
        assert (record.id, record.question, record.answer) == (
            "hiyouga/geometry3k/3",
            "Find x. You FIRST think …",
            "42",
        )
        assert (record.family, record.split, record.turns) == ("hiyouga/geometry3k", "train", ())
        assert record.tools == ("zoom_in",)  # a tool without a schema cannot be offered
        assert shade(record.images[0]) == 70 and "SECRET" not in repr(record)
    item = record.item()
    assert item.answer == "42" and item.images[0].pixels_YXC.shape == (10, 20, 1)


def test_verl_traps(folder):
    for change, reason in (
        ({"reward_model": {"style": "rule"}, "extra_info": {}}, "no ground_truth"),
        ({"images": []}, "more <image> marks than images"),
        ({"images": [png(1)] * 2}, "fewer <image> marks than images"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": [*VERL["prompt"], {"role": "assistant", "content": "42"}]}, "a prompt that holds turns already"),
    ):
        with pytest.raises(Rejected, match=reason):
            read(verl, VERL | change, folder)
    plain = read(verl, VERL | {"prompt": "Find x.", "reward_model": {"ground_truth": ["41", "42"]}}, folder)
    assert plain.question == "Find x." and plain.answer == "41"


def test_rows_of_every_kind_of_file(tmp_path):
    rows = [{"messages": [], "n": 1}, {"messages": [], "n": 2}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n{broken\n")
    assert list(read_rows(tmp_path / "a.jsonl")) == [(1, rows[0]), (2, rows[1]), (4, None)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert list(read_rows(tmp_path / "a.json")) == [(1, rows[0]), (2, rows[1])]
    for name, text, message in (
        ("b.json", "{}", "an array of JSON objects is wanted"),
        ("c.json", "[", "is no JSON"),
        ("d.csv", "a", "is none of .jsonl, .json and .parquet"),
        ("e.parquet", "a", "is no sound parquet file"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(BadFile, match=message):
            list(read_rows(tmp_path / name))
    with pytest.raises(BadFile, match="gone.jsonl: cannot be read"):
        list(read_rows(tmp_path / "gone.jsonl"))
