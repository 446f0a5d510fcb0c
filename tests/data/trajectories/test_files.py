"""The file: what is written is read back, errors name file, line and part, torn lines are cut off."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from medvista_jax.data.files import BadFile
from medvista_jax.data.trajectories import HostWord, ImageRef, Observation, Outcome, Prompt, Record, Source, Turn
from medvista_jax.data.trajectories.files import Writer, encode_pixels, read_records
from medvista_jax.data.trajectories.record import from_json, to_json

GREY = np.arange(12, dtype=np.uint16).reshape(3, 4, 1) * 5000


def png(value: int = 7, size: tuple[int, int] = (4, 3)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


def make_record(name: str = "q/0", **changes) -> Record:
    record = Record(
        id=name,
        question="Which é?",
        images=(
            ImageRef(data=encode_pixels(GREY), window=(10.0, 50000.0), rescale=(1.0, -1024.0), spacing=(0.5, 0.7)),
        ),
        source=Source("checkpoint", "runs/x", tokenizer="abc", tokens_per_image=4, temperature=0.7, key=(0, 3), row=2),
        answer="left",
        options=("left", "right"),
        family="side",
        needs="zoom",
        targets=((1.0, 2.0, 3.0, 4.0),),
        split="train",
        tools=("zoom_in", {"type": "function", "function": {"name": "look", "parameters": {}}}),
        system="be brief",
        prompt=Prompt((1, 2, 3), ((1, 0, 2),)),
        turns=(
            Turn(
                "<think>\ud800 lone</think>",
                (5, 6),
                (-0.25, -1.5),
                (0, -1),
                "TOOL_FAILED",
                Observation("image 1", ImageRef(data=png()), (7, 8, 9), ((1, 4, 1),)),
                HostWord("read_text", "the words", "TOOL_FAILED"),
            ),
            Turn("<answer>left</answer>"),
        ),
        outcome=Outcome("left", True, False, False, 0.5, {"format": 0.0}),
        notes=("changed",),
    )
    return dataclasses.replace(record, **changes)


def bare(record: Record) -> Record:
    """The record without its images."""
    turns = tuple(
        dataclasses.replace(turn, observation=turn.observation and dataclasses.replace(turn.observation, image=None))
        for turn in record.turns
    )
    return dataclasses.replace(record, images=(), turns=turns)


def test_what_is_written_is_read_back(tmp_path):
    records = [make_record(), make_record("q/1", answer=None, prompt=None, turns=(), outcome=Outcome())]
    with Writer(tmp_path / "t.jsonl") as out:
        for record in records:
            out.write(record)
    again = list(read_records(tmp_path / "t.jsonl"))
    assert list(map(bare, again)) == list(map(bare, records))
    image = again[0].images[0].load()
    np.testing.assert_array_equal(image.pixels_YXC, GREY)
    assert image.pixels_YXC.dtype == np.uint16
    assert (image.window, image.rescale, image.spacing) == ((10.0, 50000.0), (1.0, -1024.0), (0.5, 0.7))
    assert (again[0].shown()[1].load().pixels_YXC == 7).all()
    # Two records, one image of the question and one view: each content once.
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_defaults_are_left_out_and_every_part_is_plain_json():
    small = Record("a", "b", (), Source("file"))
    assert to_json(small) == {"id": "a", "question": "b", "images": [], "source": {"kind": "file"}}
    whole = json.loads(json.dumps(to_json(make_record())))
    assert whole.keys() == {field.name for field in dataclasses.fields(Record)}
    assert whole["turns"][0].keys() == {field.name for field in dataclasses.fields(Turn)}


def test_embedded_bytes_are_read(tmp_path):
    line = json.dumps(to_json(make_record()))
    (tmp_path / "t.jsonl").write_text(line + "\n")
    (record,) = read_records(tmp_path / "t.jsonl")
    assert record == make_record()


def test_files_are_copied_or_linked(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "scan.png").write_bytes(png(9))
    record = make_record(images=(ImageRef(str(tmp_path / "in" / "scan.png")),))
    for how, name in (("copy", "images/"), ("link", "../in/scan.png")):
        with Writer(tmp_path / how / "t.jsonl", images=how) as out:
            out.write(record)
        stored = json.loads((tmp_path / how / "t.jsonl").read_text())
        assert stored["images"][0]["file"].startswith(name)
        (again,) = read_records(tmp_path / how / "t.jsonl")
        assert (again.images[0].load().pixels_YXC == 9).all()
    with pytest.raises(BadFile, match="gone.png: cannot be read: No such file"):
        with Writer(tmp_path / "t.jsonl") as out:
            out.write(make_record(images=(ImageRef(str(tmp_path / "gone.png")),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "the record, 'id': text is wanted, not NoneType 'None'"),
        ({"extra": 1}, "the record: 'extra' is no part of it; its parts are id, question, images"),
        ({"images": "a.png"}, "the record, 'images': a list is wanted, not str 'a.png'"),
        ({"source": {}}, "the record, 'source': 'kind' is missing"),
        ({"turns": [{"text": "a", "ids": [1, "2"]}]}, "the record, 'turns'[0], 'ids'[1]: a whole number is wanted"),
        ({"turns": [{"text": "a", "ids": [1, True]}]}, "the record, 'turns'[0], 'ids'[1]: a whole number is wanted"),
        ({"images": [{"data": "?"}]}, "the record, 'images'[0], 'data': base64 is wanted"),
        ({"images": [{"window": [1]}]}, "the record, 'images'[0], 'window': 2 values are wanted, not 1"),
        ({"outcome": {"correct": 1}}, "the record, 'outcome', 'correct': true or false is wanted, not int '1'"),
    ],
)
def test_errors_name_file_line_and_part(tmp_path, change, message):
    sound = to_json(Record("a", "b", (), Source("file")))
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(sound) + "\n\n" + json.dumps(sound | change) + "\n" + json.dumps(sound) + "\n")
    with pytest.raises(BadFile) as error:
        list(read_records(path))
    assert str(error.value).startswith(f"{path}, line 3: {message}")
    problems: list[str] = []
    assert len(list(read_records(path, problems))) == 2
    assert len(problems) == 1 and problems[0] == str(error.value)


def test_a_line_that_was_cut_short_is_named_and_cut_off(tmp_path):
    path = tmp_path / "t.jsonl"
    for left in ("", '{"id": "half'):
        with Writer(path) as out:
            out.write(make_record())
        with open(path, "a") as file:
            file.write(left)
        if left:
            with pytest.raises(BadFile, match=r"line 2: no JSON.*cut short; was its writer stopped"):
                list(read_records(path))
        with Writer(path, append=True) as out:
            out.write(make_record("q/1"))
        assert [record.id for record in read_records(path)] == ["q/0", "q/1"]


def test_reading_streams_and_tells_how_far_it_is(tmp_path):
    path = tmp_path / "t.jsonl"
    with Writer(path) as out:
        for number in range(5):
            out.write(make_record(f"q/{number}"))
    told: list[tuple[int, int]] = []
    records = read_records(path, progress=lambda done, total: told.append((done, total)))
    assert next(records).id == "q/0" and told == []  # one line was read, not the file
    assert len(list(records)) == 4
    assert told[-1] == (path.stat().st_size,) * 2 and [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadFile, match=r"none.jsonl: cannot be read: No such file"):
        list(read_records(tmp_path / "none.jsonl"))


def test_a_record_is_a_question_for_a_pool(tmp_path):
    item = make_record().item()
    assert (item.question, item.answer, item.options, item.needs) == ("Which é?", "left", ("left", "right"), "zoom")
    np.testing.assert_array_equal(item.images[0].pixels_YXC, GREY)
    with pytest.raises(ValueError, match="q/0: has no true answer"):
        make_record(answer=None).item()


def test_from_json_places_images(tmp_path):
    record = from_json(
        {"id": "a", "question": "b", "images": [{"file": "x.png"}], "source": {"kind": "file"}}, tmp_path
    )
    assert record.images[0].file == str(tmp_path / "x.png")
