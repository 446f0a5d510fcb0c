"""What is wrong with files is said in one line: which row, which file, how to mend it."""

from __future__ import annotations

import json

import pytest

from medvista_jax.data.benchmarks import BENCHMARKS, BadFile, Questions, hub_files, prepare
from medvista_jax.data.benchmarks.counts import check
from tests.data.benchmarks import made


def fails(name, folder, subset=True):
    """The message; nothing may be left that looks prepared."""
    with pytest.raises(BadFile) as caught:
        prepare(name, folder, folder / "out", subset=subset)
    assert not list((folder / "out").glob("*/*/1.0.0"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_image_that_the_archive_lacks(tmp_path):
    made.slake(tmp_path, [made.SLAKE_ROW, made.SLAKE_ROW | {"img_name": "xmlab2/source.jpg"}])
    said = fails("slake", tmp_path)
    assert "row 2 of test.json: its image 'xmlab2/source.jpg' is not in" in said and "imgs.zip" in said


@pytest.mark.parametrize("image, what", [(None, "'image' is missing"), (b"text", "'image' is no image")])
def test_an_image_that_the_table_lacks(tmp_path, image, what):
    made.embedded(tmp_path, "test", [(made.picture(1), "which?", "left"), (image, "which?", "left")], shards=2)
    assert f"row 1 of data/test-00001-of-00002-0123456789abcdef.parquet: {what}" in fails("vqa_rad", tmp_path)


def test_an_image_that_a_marker_names(tmp_path):
    made.mmmu(tmp_path, "Pharmacy", "dev", [made.mmmu_row(options="['<image 2>', 'none']")])
    assert "row 1 of Pharmacy/dev-00000-of-00001.parquet: image_2 is missing" in fails("mmmu_medical", tmp_path)


@pytest.mark.parametrize(
    "change, what",
    [
        ({"options": "['a', "}, "are no Python list"),
        ({"options": "[]"}, "is multiple-choice without options"),
        ({"answer": "C"}, "the answer 'C' is none of the letters A, B"),
        ({"answer": None}, "'answer' is empty"),
    ],
)
def test_rows_that_make_no_sense(tmp_path, change, what):
    made.mmmu(tmp_path, "Pharmacy", "dev", [made.mmmu_row(), made.mmmu_row(**change)])
    said = fails("mmmu_medical", tmp_path)
    assert "row 2 of Pharmacy/dev-00000-of-00001.parquet" in said and what in said


def test_files_that_are_missing_or_damaged(tmp_path):
    assert "is no folder" in fails("slake", tmp_path / "nowhere")
    assert "has none of train.json, validation.json, test.json, imgs.zip" in fails("slake", tmp_path)
    made.slake(tmp_path, [made.SLAKE_ROW])
    assert "has no train.json (the train split of SLAKE)" in fails("slake", tmp_path, subset=False)
    (tmp_path / "imgs.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert "imgs.zip: is damaged or no zip" in fails("slake", tmp_path)
    (tmp_path / "imgs.zip").unlink()
    assert "imgs.zip: is missing" in fails("slake", tmp_path)
    (tmp_path / "test.json").write_text("[{")
    (tmp_path / "imgs.zip").touch()
    assert "test.json: cannot be read" in fails("slake", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test-0.parquet").write_bytes(b"PAR1")
    assert "test-0.parquet: is damaged or no parquet" in fails("path_vqa", tmp_path)


def test_another_table_says_which_columns_it_has(tmp_path):
    (tmp_path / "test.json").write_text(json.dumps([{"query": "which?"}]))
    made.archive(tmp_path / "imgs.zip", {})
    assert "row 1 of test.json: has no column 'q_lang', only ['query']" in fails("slake", tmp_path)


def test_counts_are_those_of_the_reference(tmp_path):
    made.embedded(tmp_path, "test", [(made.picture(1), "is it?", "yes")])
    made.embedded(tmp_path, "train", [(made.picture(1), "is it?", "yes")])
    said = fails("vqa_rad", tmp_path, subset=False)
    assert "train split: 1 rows, not 1793; test split: 1 rows, not 451; test split: 1 closed, not 251" in said
    assert "--subset" in said


def test_right_counts_pass_and_rough_ones_are_rough():
    check(BENCHMARKS["vqa_rad"], {"train": {"rows": 1793}, "test": {"rows": 451, "closed": 251}})
    check(BENCHMARKS["pmc_vqa_2"], {"test": {"rows": 33430}})
    with pytest.raises(BadFile, match="5000 rows, not about 33000"):
        check(BENCHMARKS["pmc_vqa_2"], {"test": {"rows": 5000}})
    mmmu = {"dev": {"rows": 25, "closed": 25}, "validation": {"rows": 150, "closed": 144}}
    with pytest.raises(BadFile, match="all splits: 169 closed, not 170"):
        check(BENCHMARKS["mmmu_medical"], mmmu)


def test_a_full_benchmark_is_prepared_when_its_counts_are_right(tmp_path):
    yes_no, words = (made.picture(1), "is it?", "no"), (made.picture(2), "which?", "left")
    made.embedded(tmp_path, "train", [words] * 1793)
    made.embedded(tmp_path, "test", [yes_no] * 251 + [words] * 200)
    prepared = prepare("vqa_rad", tmp_path, tmp_path / "out")
    assert prepared == tmp_path / "out" / "vqa_rad" / "full" / "1.0.0"
    assert len(Questions("vqa_rad", folder=tmp_path / "out")) == 451
    assert Questions("vqa_rad", folder=tmp_path / "out")[251].question == "which?"


@pytest.fixture
def prepared(tmp_path):
    made.slake(tmp_path, [made.SLAKE_ROW])
    return prepare("slake", tmp_path, tmp_path / "out", subset=True)


def test_a_second_call_keeps_what_is_there(prepared, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    assert prepare("slake", tmp_path, tmp_path / "out", subset=True) == prepared
    assert before == {path: path.stat().st_mtime_ns for path in prepared.iterdir()}
    manifest = json.loads((prepared / "checksums.json").read_text())
    assert sorted(manifest["source"]) == ["imgs.zip", "test.json"]
    assert all(len(digest) == 64 for digest in manifest["source"].values())


def test_a_changed_file_of_the_hub(prepared, tmp_path):
    made.slake(tmp_path, [made.SLAKE_ROW | {"answer": "CT"}])
    with pytest.raises(BadFile, match=r"test\.json: has changed since it was prepared \(sha256 .*fetch it again"):
        prepare("slake", tmp_path, tmp_path / "out", subset=True)


def test_a_changed_or_missing_prepared_file(prepared, tmp_path):
    (records,) = prepared.glob("slake-test.array_record-*")
    data = bytearray(records.read_bytes())
    data[len(data) // 2] ^= 1
    records.write_bytes(data)
    with pytest.raises(BadFile, match="array_record-00000-of-00001: has changed since it was prepared"):
        Questions("slake", folder=tmp_path / "out", subset=True)
    records.unlink()
    with pytest.raises(BadFile, match="array_record-00000-of-00001: is missing, but was there"):
        Questions("slake", folder=tmp_path / "out", subset=True)


def test_a_preparation_without_checksums_is_not_trusted(prepared, tmp_path):
    (prepared / "checksums.json").unlink()
    with pytest.raises(BadFile, match=r"checksums\.json: cannot be read; remove .* and prepare it again"):
        Questions("slake", folder=tmp_path / "out", subset=True)


def test_a_subset_is_not_taken_for_the_whole(prepared, tmp_path):
    with pytest.raises(BadFile, match="SLAKE has not been prepared"):
        Questions("slake", folder=tmp_path / "out")
    with pytest.raises(BadFile, match="has no split 'train', only test"):
        Questions("slake", "train", tmp_path / "out", subset=True)


@pytest.mark.parametrize("kind", ["httpx2", "os"])
def test_no_network_is_one_line(monkeypatch, kind):
    import httpx2
    import huggingface_hub

    asked = []

    def refuse(*arguments, **named):
        asked.append((arguments, named))
        raise httpx2.ConnectError("no route") if kind == "httpx2" else ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BadFile, match=r"BoKelvin/SLAKE could not be downloaded .*--from"):
        prepare("slake")
    wanted = ["train.json", "validation.json", "test.json", "imgs.zip"]
    assert asked == [(("BoKelvin/SLAKE",), {"repo_type": "dataset", "allow_patterns": wanted})]


def test_a_download_is_prepared(monkeypatch, tmp_path):
    made.slake(tmp_path, [made.SLAKE_ROW])
    monkeypatch.setattr("medvista_jax.data.benchmarks.preparation.download", lambda hub_id, patterns: tmp_path)
    prepare("slake", to=tmp_path / "out", subset=True)
    assert Questions("slake", folder=tmp_path / "out", subset=True)[0].answer == "MRI"
    assert hub_files.find(tmp_path, ["*.json", "none"]) == []
