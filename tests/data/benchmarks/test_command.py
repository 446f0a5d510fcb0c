"""``python -m medvista_jax.data.benchmarks``: what it prints, and its exit codes."""

from __future__ import annotations

from medvista_jax.data.benchmarks.__main__ import main
from tests.data.benchmarks import made


def test_the_list_has_sources_licences_and_counts(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for part in (
        "vqa_rad: VQA-RAD",
        "https://huggingface.co/datasets/BoKelvin/SLAKE",
        "licence  CC BY 4.0",
        "test       2094 rows, 1061 en, 836 closed, 416 closed en",
        "test       about 33000 rows",
        "together   170 closed",
    ):
        assert part in text


def test_prepare_and_show(tmp_path, capsys):
    made.mmmu(tmp_path, "Pharmacy", "validation", [made.mmmu_row()])
    to = ["--to", str(tmp_path / "out"), "--subset"]
    assert main(["prepare", "mmmu-medical", "--from", str(tmp_path), *to]) == 0
    text = capsys.readouterr().out
    assert "licence Apache-2.0" in text and "validation: 1 questions" in text
    assert main(["show", "mmmu_medical", "0", *to]) == 0
    assert capsys.readouterr().out.splitlines()[:6] == [
        "mmmu_medical, validation, validation_Clinical_Medicine_1 (en, closed)",
        f"  image 1: PNG, 6 x 5, {len(made.picture(1, 'PNG'))} bytes",
        "  question: What does <image 1> show?",
        "    A: Fracture",
        "    B: Paget's disease",
        "  answer: B: Paget's disease",
    ]


def test_faults_are_one_line(tmp_path, capsys):
    made.slake(tmp_path, [made.SLAKE_ROW])
    to = ["--to", str(tmp_path / "out")]
    assert main(["prepare", "slake", "--from", str(tmp_path), *to, "--subset"]) == 0
    capsys.readouterr()
    for arguments, part in (
        (["prepare", "slak", "--from", str(tmp_path), *to], "no benchmark 'slak'; there are vqa_rad"),
        (["prepare", "slake", "--from", str(tmp_path), *to], "has no train.json"),
        (["prepare", "slake", "--from", str(tmp_path / "no"), *to], "is no folder"),
        (["show", "slake", "0", *to], "has not been prepared"),
        (["show", "slake", "5", *to, "--subset"], "question 5 of 1 (slake, test)"),
        (["show", "slake", "0", "--split", "dev", *to, "--subset"], "has no split 'dev'"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.startswith("medvista_jax.data.benchmarks: ") and said.count("\n") == 1 and part in said
