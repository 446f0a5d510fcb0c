"""Miniature repositories are prepared by tensorflow-datasets and read back, question by question."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from medvista_jax.data.benchmarks import BENCHMARKS, BadFile, BenchmarkItem, Questions, prepare
from tests.data.benchmarks import made


def back(name, folder, split="test"):
    """All questions of a folder after preparing it."""
    to = folder / "out"
    prepare(name, folder, to, subset=True)
    questions = Questions(name, split, to, subset=True)
    return [questions[i] for i in range(len(questions))]


@pytest.mark.parametrize("name", ["vqa_rad", "path_vqa"])
def test_images_inside_the_table(name, tmp_path):
    colours = made.picture(9, "JPEG", "CMYK")  # PathVQA has such
    rows = [(made.picture(i), f"which {i}?", "left") for i in range(4)]
    rows += [(colours, " is there a tumour? ", "Yes"), (made.picture(5), "is it normal?", "no finding")]
    made.embedded(tmp_path, "test", rows, shards=3)
    made.embedded(tmp_path, "train", rows[:1])
    items = back(name, tmp_path)
    assert [item.question for item in items[:4]] == ["which 0?", "which 1?", "which 2?", "which 3?"]
    assert items[4] == BenchmarkItem(
        id="test-4",
        images=(colours,),
        question="is there a tumour?",
        options=None,
        answer="Yes",
        answer_letter=None,
        closed=True,
        language="en",
        split="test",
        benchmark=name,
        extras={},
    )
    assert not items[5].closed
    assert len(Questions(name, "train", tmp_path / "out", subset=True)) == 1


def test_slake_in_two_languages(tmp_path):
    chinese = {"question": "这张图片是什么模态?", "answer": "是", "q_lang": "zh", "qid": 3, "answer_type": "CLOSED"}
    made.slake(tmp_path, [made.SLAKE_ROW, made.SLAKE_ROW | chinese | {"img_name": "xmlab10/source.jpg"}])
    english, second = back("slake", tmp_path)
    assert second == BenchmarkItem(
        id="3",
        images=(made.picture(20),),
        question="这张图片是什么模态?",
        options=None,
        answer="是",
        answer_letter=None,
        closed=True,
        language="zh",
        split="test",
        benchmark="slake",
        extras={
            "img_id": 1,
            "img_name": "xmlab10/source.jpg",
            "location": "Abdomen",
            "modality": "MRI",
            "base_type": "vqa",
            "content_type": "Modality",
            "triple": ["vhead", "_", "_"],
        },
    )
    assert (english.closed, english.language, english.images) == (False, "en", (made.picture(10),))


_CHOICES = {"Choice A": " A:Diffuse uptake", "Choice B": "B: Focal: uptake", "Choice C": "C:A:1 ratio", "Choice D": ""}


def test_pmc_vqa_version_1(tmp_path):
    row = {"Figure_path": "PMC1_F1.jpg", "Question": " What, then, is\nit? ", "Answer": "Focal uptake pattern"}
    made.spread(tmp_path / "test_clean.csv", [row | _CHOICES | {"Answer_label": "B"}])
    made.archive(tmp_path / "images.zip", {"images/PMC1_F1.jpg": made.picture(3)})
    (item,) = back("pmc_vqa", tmp_path)
    assert item == BenchmarkItem(
        id="test-0",
        images=(made.picture(3),),
        question="What, then, is\nit?",
        options={"A": "Diffuse uptake", "B": "Focal: uptake", "C": "A:1 ratio", "D": ""},
        answer="Focal: uptake",
        answer_letter="B",
        closed=True,
        language="en",
        split="test",
        benchmark="pmc_vqa",
        extras={"Figure_path": "PMC1_F1.jpg", "Answer": "Focal uptake pattern"},
    )


def test_pmc_vqa_version_2_answers_by_letter(tmp_path):
    row = {"index": "7", "Figure_path": "PMC8_Fig1_2.jpg", "Caption": "A, B.", "Question": "Which?"}
    made.spread(tmp_path / "test_2.csv", [row | _CHOICES | {"Answer": " A", "split": "test"}])
    made.archive(tmp_path / "images_2.zip", {"figures/PMC8_Fig1_2.jpg": made.picture(4)})
    (item,) = back("pmc_vqa_2", tmp_path)
    assert (item.answer_letter, item.answer, item.images) == ("A", "Diffuse uptake", (made.picture(4),))
    assert item.extras == {"Figure_path": "PMC8_Fig1_2.jpg", "Caption": "A, B.", "index": "7"}


def test_mmmu_with_several_images_and_an_open_question(tmp_path):
    second = made.picture(2, "PNG")
    several = made.mmmu_row(
        id="validation_Pharmacy_12",
        question="Compare <image 1> with <image 3>.",
        options="['<image 1>', '<image 3>', 'neither']",
        image_3=second,
        answer="C",
    )
    open_row = made.mmmu_row(options="[]", answer="17", question_type="open", question="How many?")
    made.mmmu(tmp_path, "Clinical_Medicine", "validation", [made.mmmu_row(), open_row])
    made.mmmu(tmp_path, "Pharmacy", "validation", [several])
    made.mmmu(tmp_path, "Art", "validation", [made.mmmu_row(id="validation_Art_1")])
    quoted, opened, many = back("mmmu_medical", tmp_path, "validation")
    assert quoted.options == {"A": "Fracture", "B": "Paget's disease"} and quoted.answer == "Paget's disease"
    assert (opened.options, opened.answer, opened.answer_letter, opened.closed) == (None, "17", None, False)
    assert many == BenchmarkItem(
        id="validation_Pharmacy_12",
        images=(made.picture(1, "PNG"), second),
        question="Compare <image 1> with <image 3>.",
        options={"A": "<image 1>", "B": "<image 3>", "C": "neither"},
        answer="neither",
        answer_letter="C",
        closed=True,
        language="en",
        split="validation",
        benchmark="mmmu_medical",
        extras={
            "subject": "Pharmacy",
            "image_numbers": [1, 3],
            "subfield": "Clinical Radiology",
            "img_type": "['Body Scans: MRI, CT scans, and X-rays']",
            "topic_difficulty": "Medium",
            "question_type": "multiple-choice",
        },
    )


def test_medxpertqa(tmp_path):
    row = {
        "id": "MM-2003",
        "question": "Which artery?\nAnswer Choices: (A) C (B) D",
        "options": {"B": "D", "A": "C", "C": "A", "D": "B", "E": "None of the above"},
        "label": "E",
        "images": ["MM-2003-b.png", "MM-2003-a.jpeg"],
        "medical_task": "Basic Medicine",
        "body_system": "Cardiovascular",
        "question_type": "Understanding",
    }
    (tmp_path / "MM").mkdir()
    (tmp_path / "MM" / "test.jsonl").write_text(json.dumps(row) + "\n\n")
    names = {"images/MM-2003-a.jpeg": made.picture(1), "images/MM-2003-b.png": made.picture(2, "PNG")}
    made.archive(tmp_path / "images.zip", names)
    (item,) = back("medxpertqa_mm", tmp_path)
    assert item == BenchmarkItem(
        id="MM-2003",
        images=(made.picture(2, "PNG"), made.picture(1)),
        question="Which artery?\nAnswer Choices: (A) C (B) D",
        options={"A": "C", "B": "D", "C": "A", "D": "B", "E": "None of the above"},
        answer="None of the above",
        answer_letter="E",
        closed=True,
        language="en",
        split="test",
        benchmark="medxpertqa_mm",
        extras={key: row[key] for key in ("images", "medical_task", "body_system", "question_type")},
    )
    assert list(item.options) == list("ABCDE")


def test_the_reference_counts():
    known = {
        "vqa_rad": {"train": 1793, "test": 451},
        "path_vqa": {"train": 19654, "validation": 6259, "test": 6719},
        "slake": {"test": 2094},
        "pmc_vqa": {"test": 2000},
        "mmmu_medical": {"dev": 25, "validation": 150},
        "medxpertqa_mm": {"test": 2000},
        "pmc_vqa_2": {},
    }
    found = {
        name: {split: s.counts["rows"] for split, s in benchmark.splits.items() if "rows" in s.counts}
        for name, benchmark in BENCHMARKS.items()
    }
    assert found == known
    assert BENCHMARKS["path_vqa"].splits["test"].counts["closed"] == 3362


def test_no_tensorflow_is_needed():
    program = "import sys, medvista_jax.data.benchmarks; assert 'tensorflow' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_wrong_name_lists_the_names(tmp_path):
    with pytest.raises(KeyError, match="no benchmark 'slak'; there are vqa_rad, slake"):
        prepare("slak", tmp_path)
    with pytest.raises(
        BadFile, match="has not been prepared; run python -m medvista_jax.data.benchmarks prepare slake"
    ):
        Questions("slake", folder=tmp_path)
