"""Exported runs of medvista-tiny: weights to the bit, a card that the hub reads, numbers of table.json, refusals."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from scipy.stats import binomtest

from medvista_jax.evaluation.export import export
from medvista_jax.evaluation.run_record import command_of, plain, read_record, write_record
from medvista_jax.models.medvista_tiny import MedVistaTiny, MedVistaTinyConfig
from medvista_jax.models.medvista_tiny.folder import read_folder
from medvista_jax.models.names import flatten
from medvista_jax.runtime.disk import DiskError
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from tests.evaluation.made_run import COUNTS, made_record, made_rows, made_run, tiny_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    export(run, out)
    return out


@pytest.mark.parametrize("policy, seed, number", [(None, None, 1), ("sft", 0, 0), ("grpo", 1, 3)])
@pytest.mark.parametrize("shard_bytes", [2_000_000_000, 700_000])
def test_weights_are_read_back_to_the_bit(run, tmp_path, policy, seed, number, shard_bytes):
    written = export(run, tmp_path / "out", policy, seed, shard_bytes=shard_bytes)
    model, params = read_folder(tmp_path / "out")
    known = tiny_params(number)
    assert {path: leaf.tobytes() for path, leaf in known.items()} == {
        path: np.asarray(leaf).tobytes() for path, leaf in flatten(params).items()
    }
    assert written.parameters == sum(leaf.size for leaf in known.values())
    assert (tmp_path / "out" / "model.safetensors.index.json").exists() == (shard_bytes < 10**9)
    tokenizer = SentencePieceTokenizer(tmp_path / "out" / "tokenizer.model")
    assert model == MedVistaTiny(MedVistaTinyConfig(vocab_size=tokenizer.vocab_size))
    assert not list(tmp_path.glob(".*"))


def test_every_file_is_there_and_says_the_same(exported):
    names = {path.name for path in exported.iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.model",
        "tokenizer_config.json",
    }
    tokenizer = SentencePieceTokenizer(exported / "tokenizer.model")
    ends = json.loads((exported / "generation_config.json").read_text())
    assert tokenizer.decode(ends["eos_token_id"]) == "</tool_call></answer>" and ends["max_new_tokens"] == 40
    config = json.loads((exported / "config.json").read_text())
    assert config["gym"] == {
        "turns": 3,
        "turn_tokens": 40,
        "prompt_slots": 56,
        "tools": ["zoom_in", "adjust_window"],
    }


def test_the_header_is_the_hubs_and_its_numbers_are_those_of_the_table(exported):
    data = ModelCard.load(exported / "README.md").data
    assert data.library_name == "medvista_jax" and data.pipeline_tag == "image-text-to-text"
    assert data.license == "other" and "not-for-clinical-use" in data.tags and data.base_model is None
    found = {result.metric_name: result for result in data.eval_results}
    # Seed 0 of SFT + GRPO alone: the weights that were written.
    right, asked = COUNTS["sft_grpo", 0]
    assert set(found) == {f"SFT + GRPO, needs {needs}, tools on, greedy" for needs in ("zoom", "all")}
    zoom = found["SFT + GRPO, needs zoom, tools on, greedy"]
    assert zoom.metric_value == right / asked and zoom.metric_args["n"] == asked and zoom.metric_args["seed"] == 0
    interval = binomtest(right, asked).proportion_ci(method="wilson")
    np.testing.assert_allclose(zoom.metric_args["ci95"], [interval.low, interval.high], rtol=1e-6)
    assert (zoom.dataset_split, zoom.metric_args["scorer"]) == ("test: other images", "normalised exact match")
    assert "implanted" in zoom.dataset_name
    rows = {
        (row["needs"], row["accuracy"], *row["ci95"])
        for row in made_rows()
        if row["condition"] == "sft_grpo" and row["seed"] == 0
    }
    assert rows == {
        (result.metric_name.split(",")[1].split()[1], result.metric_value, *result.metric_args["ci95"])
        for result in found.values()
    }


def test_the_text_has_table_data_stages_limits_and_versions(run, exported):
    text = (exported / "README.md").read_text()
    table = [line for line in (run / "table.md").read_text().splitlines() if line]
    assert all(line in text for line in table) and any("95 % Wilson" in line for line in table)
    for part in (
        "Not for clinical use",
        "**Implanted targets.** Every target is drawn by the program.",
        "| made | random noise | nobody | CC0 |",
        "| `sft` | 7 | Everything learns from a teacher. |",
        '"learning_rate": 0.002',
        "- It knows nothing.",
        "`python experiments/made.py --seeds 2`",
        "those of seed 0",
        f"numpy {np.__version__}",
        "read_folder",
    ):
        assert part in text, part
    assert str(run) not in text and str(Path.home()) not in text


def test_a_policy_has_its_own_stages_and_rows(run, tmp_path):
    export(run, tmp_path / "out", "sft", 1, base_model=["some/base"], licence="mit")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "`grpo` | 3" not in card.text and "`sft` | 7" in card.text
    assert [r.metric_value for r in card.data.eval_results] == [11 / 37, 16 / 42]
    assert card.data.base_model == ["some/base"] and card.data.license == "mit"


def test_what_is_there_is_kept(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    export(run, out)  # an empty folder is taken
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="not empty.*--overwrite"):
        export(run, out, "sft")
    assert (out / "model.safetensors").read_bytes() == before
    (out / "more.txt").write_text("of the old folder")
    export(run, out, "sft", overwrite=True)
    assert (out / "model.safetensors").read_bytes() != before and not (out / "more.txt").exists()
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="no model and is not replaced"):
        export(run, home, overwrite=True)
    assert [path.name for path in home.iterdir()] == ["letter.txt"]
    with pytest.raises(FileExistsError, match="is a file"):
        export(run, home / "letter.txt")
    assert not list(tmp_path.glob(".*"))


def test_an_error_on_the_way_leaves_the_old_folder(run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(run, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("medvista_jax.evaluation.export.write_text_files", full)
    with pytest.raises(DiskError, match="disk is full.*not written"):
        export(run, out, "sft", overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_too_little_room_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match=r"3\.3 MB are needed, 1\.0 MB are free"):
        export(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_said_in_one_line(run, tmp_path):
    with pytest.raises(ValueError, match="no policy 'rl'; it has sft, grpo"):
        export(run, tmp_path / "out", "rl")
    with pytest.raises(ValueError, match="no seed 7; it has 0, 1"):
        export(run, tmp_path / "out", seed=7)
    with pytest.raises(FileNotFoundError, match="--resume writes it"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="is there such a folder"):
        export(tmp_path / "nowhere", tmp_path / "out")
    bare = tmp_path / "bare"
    bare.mkdir()
    write_record(bare, made_record())
    with pytest.raises(FileNotFoundError, match="not exported without its numbers"):
        export(bare, tmp_path / "out")
    (bare / "table.json").write_bytes((run / "table.json").read_bytes())
    with pytest.raises(FileNotFoundError, match="no weights at"):
        export(bare, tmp_path / "out")
    (bare / "seed_0" / "policy").mkdir(parents=True)
    (bare / "seed_0" / "policy" / "grpo.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no file of weights that can be read"):
        export(bare, tmp_path / "out")
    write_record(bare, made_record(family="gpt"))
    with pytest.raises(ValueError, match="family 'gpt' is unknown"):
        export(bare, tmp_path / "out")
    (bare / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json cannot be used"):
        export(bare, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_of_another_size_are_refused(run, tmp_path):
    other = made_record(settings={"setting": {"turns": 3, "slots": 4}})
    made_run(tmp_path / "run")
    write_record(tmp_path / "run", other)
    with pytest.raises(ValueError, match="does not describe its setting"):
        export(tmp_path / "run", tmp_path / "out")
    made_run(tmp_path / "run")
    path = tmp_path / "run" / "seed_0" / "policy" / "grpo.safetensors"
    from safetensors.numpy import load_file, save_file

    leaves = load_file(path)
    first = next(iter(leaves))
    save_file({**leaves, first: leaves[first][:1]}, path)
    with pytest.raises(ValueError, match="1 of another shape"):
        export(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_record_comes_back_as_it_was(tmp_path):
    record = made_record()
    write_record(tmp_path, record)
    again = read_record(tmp_path)
    assert plain(again) == plain(record) and again.policies == record.policies and again.protocol == record.protocol
    assert dataclasses.replace(again, made=record.made) == dataclasses.replace(record, settings=again.settings)


def test_a_command_names_no_folder():
    assert command_of("x.py", ["--out", "/a/b", "--resume", "--seeds", "3"]) == "python experiments/x.py --seeds 3"
    assert command_of("x.py", ["--out=/a/b", "--model", "m", "--note", "a b"]) == "python experiments/x.py --note 'a b'"


def test_the_script(run, tmp_path):
    call = [sys.executable, "experiments/export.py", str(run), str(tmp_path / "out")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "policy grpo, seed 0" in done.stdout, done.stderr[-2000:]
    again = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "--overwrite" in again.stderr
