"""Miniature benchmarks, prepared: a few questions of every kind."""

from __future__ import annotations

import json
from pathlib import Path

from medvista_jax.data.benchmarks import prepare
from tests.data.benchmarks import made

VQA_RAD = (
    ("Is there a pneumothorax?", "Yes"),
    ("is the lesion on the left or right?", "Right"),
    ("Is the heart enlarged?", "no"),
    ("What is under the right hemidiaphragm?", "Free air"),
    ("Which plane is this image taken?", "PA"),
)
"""As on the hub, without the label CLOSED: the first three have it."""

SLAKE = (
    {"qid": 1, "question": "Does the picture contain lung?", "answer": "Yes", "answer_type": "CLOSED"},
    {
        "qid": 2,
        "question": "Which is the biggest, lung,liver or heart?",
        "answer": "Liver",
        "answer_type": "CLOSED",
    },
    {"qid": 3, "question": "What modality is used to take this image?", "answer": "MRI", "answer_type": "OPEN"},
    {"qid": 4, "question": "图片中包含肺吗?", "answer": "是", "answer_type": "CLOSED", "q_lang": "zh"},
    {"qid": 5, "question": "图片中最大的器官是?", "answer": "肝", "answer_type": "OPEN", "q_lang": "zh"},
)
CHOICES = {
    f"Choice {letter}": f" {letter}:{text}" for letter, text in zip("ABCD", ("CT", "MRI", "PET", "X-ray"), strict=True)
}


def vqa_rad(folder: Path, to: Path) -> None:
    made.embedded(folder, "test", [(made.picture(i), *pair) for i, pair in enumerate(VQA_RAD)])
    prepare("vqa_rad", folder, to, subset=True)


def slake(folder: Path, to: Path) -> None:
    made.slake(folder, [made.SLAKE_ROW | row for row in SLAKE])
    prepare("slake", folder, to, subset=True)


def path_vqa(folder: Path, to: Path) -> None:
    rows = [(made.picture(1), "is it normal?", "no"), (made.picture(2), "what is seen?", "fibrosis")]
    made.embedded(folder, "test", rows)
    prepare("path_vqa", folder, to, subset=True)


def pmc_vqa(folder: Path, to: Path) -> None:
    row = {"Figure_path": "f.jpg", "Question": "Which modality?", "Answer": "MRI", "Answer_label": "B"}
    made.spread(folder / "test_clean.csv", [row | CHOICES])
    made.archive(folder / "images.zip", {"images/f.jpg": made.picture(3)})
    prepare("pmc_vqa", folder, to, subset=True)


def pmc_vqa_2(folder: Path, to: Path) -> None:
    row = {"index": "7", "Figure_path": "g.jpg", "Caption": "A.", "Question": "Which modality?", "Answer": "B"}
    made.spread(folder / "test_2.csv", [row | CHOICES | {"split": "test"}])
    made.archive(folder / "images_2.zip", {"figures/g.jpg": made.picture(4)})
    prepare("pmc_vqa_2", folder, to, subset=True)


def mmmu_medical(folder: Path, to: Path) -> None:
    two = made.mmmu_row(
        id="validation_Pharmacy_1", question="Compare <image 1> with <image 2>.", image_2=made.picture(2, "PNG")
    )
    opened = made.mmmu_row(
        id="validation_Pharmacy_2", question="How many? <image 1>", options="[]", answer="17", question_type="open"
    )
    made.mmmu(folder, "Pharmacy", "validation", [two, opened])
    made.mmmu(folder, "Pharmacy", "dev", [made.mmmu_row(id="dev_Pharmacy_1")])
    prepare("mmmu_medical", folder, to, subset=True)


def medxpertqa_mm(folder: Path, to: Path) -> None:
    row = {
        "id": "MM-1",
        "question": "Which artery?\nAnswer Choices: (A) Left (B) Right",
        "options": {"A": "Left", "B": "Right"},
        "label": "B",
        "images": ["MM-1-a.png", "MM-1-b.png"],
        "medical_task": "Basic Medicine",
        "body_system": "Cardiovascular",
        "question_type": "Understanding",
    }
    (folder / "MM").mkdir()
    (folder / "MM" / "test.jsonl").write_text(json.dumps(row) + "\n")
    made.archive(folder / "images.zip", {f"images/MM-1-{x}.png": made.picture(i, "PNG") for i, x in enumerate("ab")})
    prepare("medxpertqa_mm", folder, to, subset=True)


ALL = {make.__name__: make for make in (vqa_rad, slake, path_vqa, pmc_vqa, pmc_vqa_2, mmmu_medical, medxpertqa_mm)}


def prepared(folder: Path, *names: str) -> Path:
    """A folder of prepared miniatures, all of them or those named."""
    for name in names or ALL:
        source = folder / f"hub_{name}"
        source.mkdir()
        ALL[name](source, folder / "prepared")
    return folder / "prepared"
