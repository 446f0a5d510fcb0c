"""SFT and GRPO of the packaged model's family as a user runs them, small and random, a few steps of every stage."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from medvista_jax import models
from medvista_jax.models.lora import merge
from medvista_jax.models.lora_files import load_adapters
from medvista_jax.models.medvista_smol import MedVistaSmol
from medvista_jax.models.medvista_smol.params import config_from_hub, entries
from medvista_jax.models.names import flatten, to_hub
from tests.text.hub_folders import QWEN3_VL, write_folder

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    ("aligned", True, "greedy"),
    ("sft", False, "greedy"),
    ("sft", True, "greedy"),
    ("sft", True, "sampled"),
    ("sft_grpo", False, "greedy"),
    ("sft_grpo", True, "greedy"),
    ("sft_grpo", True, "sampled"),
    ("wrong_spot", True, "greedy"),
    ("right_spot", True, "greedy"),
    ("right_spot_after_sft", True, "greedy"),
]

pytestmark = pytest.mark.slow


def write_model(folder: Path) -> None:
    """A hub folder like that of ``smol_align.py``, of a few thousand random weights."""
    write_folder(folder, "qwen3", QWEN3_VL)
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in added}
    text = {
        "vocab_size": max(ids.values()) + 1,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
        "tie_word_embeddings": True,
        "model_type": "llama",
        "hidden_act": "silu",
    }
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 3,
        "image_size": 70,
        "patch_size": 14,
        "layer_norm_eps": 1e-5,
        "use_mask_token": False,
        "model_type": "dinov2",
        "hidden_act": "gelu",
        "num_channels": 3,
        "qkv_bias": True,
    }
    config = {
        "model_type": "medvista_smol",
        "architectures": ["MedVistaSmolForConditionalGeneration"],
        "merge_size": 2,
        "projector_hidden_size": 20,
        "projector_hidden_act": "gelu",
        "image_token_id": ids["<|image_pad|>"],
        "view_size": [56, 56],
        "text_config": text,
        "vision_config": vision,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 56, "width": 56}}))
    known = config_from_hub(config)
    flat = flatten(MedVistaSmol(known).init(jax.random.key(0)))
    tensors = {entry.hub: to_hub(entry, np.asarray(flat[entry.path])) for entry in entries(known)}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / "model.safetensors")


def command(model: Path, out: Path, *more: str) -> list[str]:
    options = ["--preset", "short", "--model", str(model), "--out", str(out)]
    return [sys.executable, "experiments/smol_grpo.py", *options, *more]


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("smol") / "model"
    write_model(folder)
    return folder


@pytest.fixture(scope="module")
def run(model, tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("grpo") / "whole"
    done = finish(command(model, out, "--profile"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SFT + GRPO" in done.stdout
    return out


def test_tables_curves_and_report(run):
    rows = json.loads((run / "table.json").read_text())
    assert [(row["condition"], row["tools"], row["decoding"]) for row in rows] == LINES
    assert all(row["n"] == 16 and row["ci95"][0] <= row["accuracy"] <= row["ci95"][1] for row in rows)
    text = (run / "table.md").read_text()
    assert "split test" in text and "LoRA rank 4" in text and re.search(r"\d+\.\d \(\d+\.\d–\d+\.\d\)", text)
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "report.html").read_text().count("<article") == 8


def test_the_profile_says_where_the_time_goes(run):
    seconds = json.loads((run / "profile" / "scopes.json").read_text())
    assert list(run.glob("profile/**/*.xplane.pb")) and {"prefill", "decode", "update"} <= set(seconds)


def test_metrics_of_every_step_and_the_held_out_curve(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = {"words": 4, "sft": 3, "grpo": 3}
    assert [(r["stage"], r["step"]) for r in records] == [(s, k + 1) for s, n in steps.items() for k in range(n)]
    grpo = [record for record in records if record["stage"] == "grpo"]
    assert [record["step"] for record in grpo if "greedy" in record] == [1, 3]
    assert all(record["logprob_mismatch_max"] < 1e-4 for record in grpo)
    # The curve begins with the policy that the table calls SFT: the same items, the same program.
    rows = {(r["condition"], r["tools"], r["decoding"]): r for r in json.loads((run / "table.json").read_text())}
    for decoding in ("greedy", "sampled"):
        row = rows["sft", True, decoding]
        assert grpo[0][decoding] == row["accuracy"] and grpo[0][f"{decoding}_calls"] == row["calls_per_question"]
        assert [grpo[0][f"{decoding}_low"], grpo[0][f"{decoding}_high"]] == row["ci95"]


def test_adapters_belong_to_the_model_beside_them(run, model):
    before = load_file(model / "model.safetensors")
    after = load_file(run / "model" / "model.safetensors")
    changed = {name for name, value in before.items() if not np.array_equal(value, after[name])}
    assert changed == {name for name in before if name.startswith("multi_modal_projector.")}
    plain, params = models.load(run / "model")
    assert plain.image_size == (56, 56)
    adapted, params = load_adapters(run / "adapters", plain, params)
    assert adapted.adapters.rank == 4
    described = json.loads((run / "adapters" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == str(run / "model")
    assert all(np.any(leaf) for path, leaf in flatten(params).items() if path.endswith("kernel_lora_b"))


def test_the_export_is_model_and_adapters_merged(run, tmp_path):
    done = finish([sys.executable, "experiments/export.py", str(run), str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr[-2000:]
    expected = flatten(merge(*load_adapters(run / "adapters", *models.load(run / "model")))[1])
    loaded, params = models.load(tmp_path / "out")
    assert loaded.image_size == (56, 56) and set(flatten(params)) == set(expected)
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(leaf, expected[path])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "LoRA of rank 4" in card and "facebook/dinov2-small" in card and str(run) not in card


def test_a_finished_run_is_reused(run, model):
    adapters = (run / "adapters" / "adapter_model.safetensors").read_bytes()
    done = finish(command(model, run))
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(f"[{stage}] reused" in done.stderr for stage in ("words", "sft", "grpo"))
    assert (run / "adapters" / "adapter_model.safetensors").read_bytes() == adapters


def test_stop_and_resume_give_the_same_adapters(run, model, tmp_path):
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        command(model, out, "--resume"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = ""
    deadline = time.monotonic() + 600
    while "[sft] starts" not in seen and time.monotonic() < deadline:
        seen += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=600)
    assert process.returncode == 130, rest[-3000:]
    assert "--resume" in rest and not (out / "adapters").exists()
    done = finish(command(model, out, "--resume"))
    assert done.returncode == 0, done.stderr[-3000:]
    for name, value in load_file(out / "adapters" / "adapter_model.safetensors").items():
        np.testing.assert_array_equal(value, load_file(run / "adapters" / "adapter_model.safetensors")[name])


def test_without_a_model_the_message_says_how_to_make_one(tmp_path):
    done = finish(command(tmp_path / "nowhere", tmp_path / "out"))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "experiments/smol_align.py" in done.stderr and "nowhere" in done.stderr
