"""BM25 against numbers worked out apart from it, and the files that passages come from."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall
from medvista_jax.tools.retrieve import NOTHING, Bm25, make_retrieve, read_passages

DOCUMENTS = ["the cat sat", "the dog sat on the log", "birds fly"]


def ask(tool, query):
    reply = run_batch({"retrieve": tool}, [HostCall("retrieve", None, {"query": query})])[0]
    assert reply.fault == Fault.NONE
    return reply.text


def test_scores_are_those_of_the_formula_by_hand():
    # N = 3, lengths 3, 6, 2, mean 11/3; k1 = 1.2, b = 0.75.
    # "cat": n = 1, idf = ln(1 + 2.5/1.5) = ln(8/3) = 0.980829; f = 1; norm = 1.2 (0.25 + 0.75 · 9/11) = 1.036364
    #        -> 0.980829 · 2.2 / 2.036364 = 1.0596463
    # "the": n = 2, idf = ln(1 + 1.5/2.5) = ln(1.6) = 0.470004
    #        first: 0.470004 · 2.2 / 2.036364 = 0.5077717
    #        second: f = 2, norm = 1.2 (0.25 + 0.75 · 18/11) = 1.772727 -> 0.470004 · 4.4 / 3.772727 = 0.5481489
    scores = Bm25(DOCUMENTS).scores("The cat?")
    np.testing.assert_allclose(scores, [1.0596463 + 0.5077717, 0.5481489, 0.0], atol=2e-6)


def test_scores_are_those_of_a_plain_loop_on_random_documents():
    rng = np.random.default_rng(3)
    vocabulary = [f"w{n}" for n in range(12)]
    documents = [list(rng.choice(vocabulary, rng.integers(1, 30))) for _ in range(40)]
    query, k1, b = list(rng.choice(vocabulary, 5)) + ["absent"], 1.7, 0.4
    mean = sum(map(len, documents)) / len(documents)

    def score(document):
        total = 0.0
        for word in query:
            n = sum(word in other for other in documents)
            f = document.count(word)
            idf = math.log((len(documents) - n + 0.5) / (n + 0.5) + 1)
            total += idf * (f * (k1 + 1)) / (f + k1 * (1 - b + b * len(document) / mean))
        return total

    scores = Bm25([" ".join(document) for document in documents], k1, b).scores(" ".join(query))
    np.testing.assert_allclose(scores, [score(document) for document in documents], rtol=1e-12)


def test_the_best_come_first_and_misses_not_at_all():
    index = Bm25(["a b", "a", "c", "a"])
    assert index.best("a", 4) == [1, 3, 0]  # the shorter ones, the earlier first
    assert index.best("a", 1) == [1] and index.best("zzz", 4) == [] and index.best("?!", 4) == []


def test_words_ignore_case_and_punctuation():
    index = Bm25(["Straße, X-ray_film", "other"])
    for query in ("STRASSE", "ray", "film", "x"):
        assert index.best(query, 1) == [0]


def test_a_text_file_is_searched_by_paragraph(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(
        "A pneumothorax shows\na white line.\n\nAn effusion blunts the angle.\n \n\n***\n", encoding="utf-8"
    )
    tool = make_retrieve(path)
    assert ask(tool, "pneumothorax") == "[1] A pneumothorax shows a white line."
    assert ask(tool, "an angle of the line").startswith("[1] An effusion blunts the angle.\n[2] A pneumo")
    assert ask(tool, "fracture") == NOTHING


def test_a_folder_and_jsonl_bring_titles(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "lung.md").write_text("Lung is dark.", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"title": "Bone", "text": "Bone is\nbright."}) + "\n\n" + '{"text": "dark"}'
    )
    (tmp_path / "image.png").write_bytes(b"\xff\xfe")
    assert [tuple(p) for p in read_passages(tmp_path)] == [
        ("Bone", "Bone is bright."),
        ("a", "dark"),
        ("lung", "Lung is dark."),
    ]
    assert ask(make_retrieve(tmp_path, passages=1), "bone") == "[1] Bone: Bone is bright."


def test_the_reply_keeps_to_its_bytes(tmp_path):
    (tmp_path / "long.txt").write_text("\n\n".join(["lung " + "é" * 900] * 5), encoding="utf-8")
    tool = make_retrieve(tmp_path / "long.txt", passages=2, passage_bytes=50)
    first, second = ask(tool, "lung").split("\n")
    assert len(first.encode()) <= 54 and first.startswith("[1] lung éé") and first.endswith(" …")
    assert second == first.replace("[1]", "[2]")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\xff\xfe\x00", r"a.txt is not UTF-8 text \(byte 0\)"),
        ("a.jsonl", b'{"text": "x"}\n{"text"', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'["x"]', "a.jsonl, line 1: an object"),
        ("a.jsonl", b'{"text": 3}', "a.jsonl, line 1: an object"),
        ("a.txt", b" \n\n ", "no passage in"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        make_retrieve(tmp_path / name)


def test_a_missing_or_empty_place_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder .*nowhere"):
        make_retrieve(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no passage in .*files that end with \.jsonl, \.md, \.txt are read"):
        make_retrieve(tmp_path)
    with pytest.raises(ValueError, match="k1 >= 0 and b in 0…1"):
        Bm25(["a"], b=2)
