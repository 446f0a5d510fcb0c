"""Tables of questions: every layout gives the same items, every fault names its row and column."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from medvista_jax.data.files import BadFile, Columns, read_questions, tables
from medvista_jax.data.files.questions import _Cache
from medvista_jax.data.item import AtlasItem
from medvista_jax.data.questions import QuestionPool
from medvista_jax.text.chat import CompactChat
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny
from tests.data.files.made import PIXELS, ROWS, as_bytes, dicom, saved, write


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.csv", "questions.parquet", "metadata.csv"])
@pytest.mark.parametrize("column", ["image", "file_name"])
def test_a_folder_with_a_table(folder, name, column):
    write(folder / name, [{column: row["image"], **{k: row[k] for k in ("question", "answer")}} for row in ROWS])
    items = read_questions(folder)
    assert [(item.id, item.question, item.answer) for item in items] == [
        (f"chests/{number:06d}", row["question"], row["answer"]) for number, row in enumerate(ROWS)
    ]
    assert [item.modality for item in items] == ["", "MR", ""]
    np.testing.assert_array_equal(items[0].pixels[..., 0], PIXELS)
    assert items[1].images[0].spacing == (1.0, 2.0) and items[0].images[0].spacing is None
    assert items[2].images[0].name == "c.nii.gz#axial=2"
    assert {item.family for item in items} == {"chests"}


@pytest.mark.parametrize("suffix", tables.SUFFIXES)
def test_a_table_by_its_name(folder, suffix):
    path = write(folder / f"mine{suffix}", ROWS)
    items = read_questions(str(path))
    assert [item.answer for item in items] == ["yes", "left", "3"] and items[0].family == "mine"


def hub_rows(count: int, start: int = 0) -> list[dict]:
    return [
        {
            "image": {"bytes": saved(PIXELS + number), "path": f"{number}.png"},
            "question": f"Q{number}?",
            "answer": str(number),
        }
        for number in range(start, start + count)
    ]


def test_shards_as_the_hub_stores_them(tmp_path):
    data = tmp_path / "vqa" / "data"
    data.mkdir(parents=True)
    write(data / "train-00000-of-00002.parquet", hub_rows(5))
    write(data / "train-00001-of-00002.parquet", hub_rows(3, 5))
    write(data / "test-00000-of-00001.parquet", hub_rows(1, 50))
    with pytest.raises(BadFile, match="holds the splits test, train; choose one"):
        read_questions(tmp_path / "vqa")
    with pytest.raises(BadFile, match="holds the splits test, train"):
        read_questions(tmp_path / "vqa", split="validation")
    items = read_questions(tmp_path / "vqa", split="train")
    assert [item.answer for item in items] == [str(number) for number in range(8)]
    for number in (7, 0, 3, 7):  # in any order
        assert items[number].pixels[0, 0, 0] == number and items[number].images[0].name == f"{number}.png"
    assert items[7].id == "vqa/000007" and items[7].source.endswith("train-00001-of-00002.parquet, row 3")
    by_name = read_questions([data / "train-00001-of-00002.parquet", data / "train-00000-of-00002.parquet"])
    assert [item.answer for item in by_name] == ["5", "6", "7", "0", "1", "2", "3", "4"]
    assert len(read_questions(f"{data}/t*.parquet")) == 9


def test_parquet_with_bytes_lists_and_dicom(tmp_path):
    scan = as_bytes(dicom(PIXELS.astype(np.uint16), Modality="CT", RescaleSlope=1, RescaleIntercept=-1024))
    rows = [{"images": [{"bytes": scan, "path": None}, {"bytes": saved(PIXELS), "path": None}], "q": "?", "a": "x"}]
    path = write(tmp_path / "several.parquet", rows)
    (item,) = read_questions(path, columns=Columns(question="q", answer="a"))
    assert [image.unit for image in item.images] == ["HU", ""] and item.window == (864.0, 1264.0)
    raw = write(tmp_path / "raw.parquet", [{"image": scan, "question": "?", "answer": "x"}])
    assert read_questions(raw)[0].modality == "CT"
    lists = write(tmp_path / "lists.parquet", [{"image": [scan], "question": "?", "answer": "x"}])
    assert len(read_questions(lists)[0].images) == 1


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_several_images_a_question(folder, suffix):
    row = {"images": ["a.png", "b.dcm"], "question": "Which is MR?", "answer": "the second"}
    write(folder / f"questions{suffix}", [row])
    (item,) = read_questions(folder)
    assert [image.modality for image in item.images] == ["", "MR"]


def test_frames_and_slices_of_all_and_of_a_row(folder):
    rows = [{**ROWS[2], "slices": "coronal:1"}, {**ROWS[2], "slices": ""}]
    write(folder / "questions.csv", rows)
    first, second = read_questions(folder, slices="axial:all")
    assert [image.name for image in first.images] == ["c.nii.gz#coronal=1"] and len(second.images) == 4


@pytest.mark.parametrize(
    "options, answer, expected",
    [
        (["left", "Right"], "right", "Right"),
        (["left", "right"], "B", "right"),
        (["left", "right"], "(a)", "left"),
        (["left", "right"], 1, "right"),
        ([2, 3, 4], 3, "3"),
        ({"X": "left", "Y": "right"}, "Y", "right"),
        (["a", "b"], "b", "b"),
    ],
)
def test_answers_among_options(folder, options, answer, expected):
    write(folder / "questions.jsonl", [{**ROWS[0], "question": "Where?", "options": options, "answer": answer}])
    (item,) = read_questions(folder)
    texts = [str(text) for text in (options.values() if isinstance(options, dict) else options)]
    assert item.answer == expected and item.options == tuple(texts)
    assert item.question == f"Where?\nAnswer with one of: {'; '.join(texts)}."
    (lettered,) = read_questions(folder, letters=True)
    keys = list(options) if isinstance(options, dict) else ["A", "B", "C"][: len(texts)]
    assert lettered.answer == keys[texts.index(expected)] and lettered.options == tuple(keys)
    assert lettered.question == "\n".join(["Where?", *(f"{k}. {t}" for k, t in zip(keys, texts, strict=True))])


def test_options_that_the_question_names_are_not_added(folder):
    row = {**ROWS[0], "question": "Left or right?", "choices": "left|right", "answer": "left"}
    write(folder / "questions.csv", [row])
    assert read_questions(folder)[0].question == "Left or right?"


def test_optional_columns(folder):
    write(folder / "questions.jsonl", [{**ROWS[0], "id": 17, "answer_type": "CLOSED", "answer": 2.0}])
    (item,) = read_questions(folder, family="mine")
    assert (item.id, item.answer_type, item.answer, item.family) == ("17", "CLOSED", "2", "mine")


def test_a_question_with_several_images_gets_them_all(folder):
    """Slots of the question with most images; who has fewer has pixels of no size there, and a shorter prompt."""
    write(folder / "questions.jsonl", [{**ROWS[0], "answer": "yes"}, {**ROWS[0], "answer": "no"}])
    one, other = read_questions(folder)
    pair = dataclasses.replace(other, load=lambda: (one.images[0], one.images[0]))
    pool = QuestionPool([one, pair], ["chests"], CompactChat(tiny.TOKENIZER), list(DEFAULT_TOOLS.values()), 4, 64, 2)
    question, _ = pool.batch(np.array([0, 1]))
    assert question.bank.count_P.tolist() == [1, 2] and question.bank.pixels_POYXC.shape[:2] == (2, 2)
    assert not question.bank.pixels_POYXC[0, 1].any() and question.bank.size_PO2[0, 1].tolist() == [1, 1]
    assert (question.feature_PS >= 0).sum(axis=1).tolist() == [4, 8]


def test_items_serve_the_question_pool(folder):
    rows = [{**ROWS[0], "answer": "yes"}, {**ROWS[0], "answer": "no"}]
    write(folder / "questions.jsonl", rows)
    items = read_questions(folder)
    pool = QuestionPool(
        items, ["chests"], CompactChat(tiny.TOKENIZER), list(DEFAULT_TOOLS.values()), 4, prompt_slots=64, turns=2
    )
    question, key = pool.batch(np.array([1]))
    rows, columns = PIXELS.shape[:2]
    np.testing.assert_array_equal(question.bank.pixels_POYXC[0, 0, :rows, :columns, 0], PIXELS)
    assert question.bank.size_PO2.tolist() == [[[rows, columns]]] and question.bank.pixels_POYXC.shape[2] == 256
    assert bytes(key.answer_PN[0]).rstrip(b"\0") == b"no"
    theirs = set(AtlasItem.__dataclass_fields__) - {"concepts"}
    assert all(hasattr(items[0], name) for name in theirs)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"image": "absent.png"}, r"line 3, column 'image': .*absent.png is missing"),
        ({"image": "sub"}, r"column 'image': .*is a folder"),
        ({"image": ""}, r"column 'image': is empty"),
        ({"image": 7}, r"column 'image': holds a int where a path or bytes are wanted"),
        ({"image": "https://example.org/a.png"}, r"is an address"),
        ({"question": "  "}, r"line 3, column 'question': is empty"),
        ({"answer": None}, r"column 'answer': is empty"),
        ({"answer": ["a", "b"]}, r"column 'answer': holds a list where text is wanted"),
        ({"options": ["a", "b"], "answer": "c"}, r"column 'answer': 'c' is none of the options \['a', 'b'\]"),
        ({"options": ["a"], "answer": "a"}, r"column 'options': .*no two to 26 different options"),
        ({"options": ["a", "a"], "answer": "a"}, r"column 'options'"),
        ({"options": 5, "answer": "a"}, r"column 'options': holds a int"),
    ],
)
def test_a_bad_row_is_named_with_its_column(folder, changes, words):
    write(folder / "questions.jsonl", [ROWS[0], {**ROWS[1], **changes}])
    with pytest.raises(BadFile, match=words) as caught:
        read_questions(folder)
    assert "questions.jsonl" in str(caught.value) and "\n" not in str(caught.value)
    problems: list[str] = []
    items = read_questions(folder, problems=problems)
    assert [item.answer for item in items] == ["yes"] and len(problems) == 1 and re.search(words, problems[0])


def test_faults_of_lines(folder):
    lines = [json.dumps(ROWS[0]), "{broken", json.dumps(["no", "object"]), json.dumps(ROWS[1] | {"id": "x"})]
    (folder / "questions.jsonl").write_text("\n".join([*lines, lines[3]]))
    problems: list[str] = []
    assert len(read_questions(folder, problems=problems)) == 2
    for problem, words in zip(
        problems, ("line 2: no JSON", "line 3: a JSON object", "line 5: .*second time"), strict=True
    ):
        assert re.search(words, problem)
    (folder / "wide.csv").write_text("image,question,answer\na.png,Is it, or not?,yes\n")
    with pytest.raises(BadFile, match="row 1: 1 fields more than the header has"):
        read_questions(folder / "wide.csv")


def test_a_damaged_image_is_named_with_its_row(folder):
    (folder / "a.png").write_bytes(b"no picture")
    write(folder / "questions.csv", ROWS)
    item = read_questions(folder)[0]
    with pytest.raises(BadFile, match=r"questions.csv, row 1: .*a.png: is no image of a known kind"):
        _ = item.images
    rows = hub_rows(3)
    rows[2]["image"] = {"bytes": b"no picture", "path": "c.png"}
    item = read_questions(write(folder / "shard.parquet", rows))[2]
    with pytest.raises(BadFile, match=r"shard.parquet, row 3: c.png: is no image"):
        _ = item.pixels


def test_sources_that_are_none(folder, tmp_path):
    empty = write(tmp_path / "empty.parquet", hub_rows(1))
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    (tmp_path / "text.parquet").write_text("PAR1 but not really")
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "latin.csv").write_bytes("image,question,answer\na,é,b".encode("latin-1"))
    (tmp_path / "columns.csv").write_text("picture,question,answer\na,b,c\n")
    (tmp_path / "few.csv").write_text("image,question\na,b\n")
    (tmp_path / "nothing").mkdir()
    cases = {
        tmp_path / "absent": "no such file or folder",
        folder: r"no table of questions.*it holds a.png, b.dcm, sub",
        tmp_path / "nothing": "it holds nothing",
        folder / "b.dcm": "is no table of questions",
        empty: "empty.parquet: holds no rows",
        tmp_path / "text.parquet": "no sound parquet",
        tmp_path / "empty.jsonl": "holds no rows",
        tmp_path / "object.json": "an array of JSON objects",
        tmp_path / "latin.csv": "no UTF-8",
        tmp_path / "columns.csv": r"no column 'image' or .* for the image; its columns are picture, question, answer",
        tmp_path / "few.csv": r"no column 'answer' for the answer; its columns are image, question",
        f"{tmp_path}/*.nothing": "no file fits",
    }
    for source, words in cases.items():
        with pytest.raises(BadFile, match=words) as caught:
            read_questions(source, problems=[])
        assert "\n" not in str(caught.value)
    with pytest.raises(BadFile, match="no column 'opts' for the options"):
        write(folder / "questions.csv", ROWS)
        read_questions(folder, columns=Columns(options="opts"))
    write(folder / "questions.jsonl", ROWS)
    with pytest.raises(BadFile, match="has questions.jsonl and questions.csv; name one"):
        read_questions(folder)


def test_decoded_pixels_stay_within_their_bound(folder):
    write(folder / "questions.jsonl", ROWS[:2] * 2)
    items = read_questions(folder)
    assert items[0].images[0] is items[2].images[0]  # one file, decoded once
    small = read_questions(folder, cache_bytes=0)
    assert small[0].images[0] is not small[0].images[0]
    cache, sizes = _Cache(100), []
    for key in range(5):
        cache.get(key, lambda: items[0].images)  # 30 bytes
        sizes.append(cache._used)
    assert sizes == [30, 60, 90, 90, 90]


def test_two_row_groups_at_most_are_in_memory(tmp_path, monkeypatch):
    path = write(tmp_path / "big.parquet", hub_rows(8))
    read = []
    original = tables.RowGroups._read
    monkeypatch.setattr(
        tables.RowGroups, "_read", staticmethod(lambda *place: read.append(place[1]) or original(*place))
    )
    items = read_questions(path)
    assert read == []  # text alone
    for item in items:
        _ = item.images, item.window
    assert read == [0, 1, 2, 3]
