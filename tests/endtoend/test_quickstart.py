"""The main job as a user runs it, a few steps of every stage: files, table, report, reuse, Ctrl-C, resume, replay."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file

from medvista_jax.evaluation.plots import PANELS
from medvista_jax.models.medvista_tiny.folder import read_folder
from medvista_jax.models.names import flatten

ROOT = Path(__file__).resolve().parents[2]
CONDITIONS = {"random_policy", "no_tools", "tools_offered", "sft", "sft_grpo", "random_crop", "oracle_crop"}
KEYS = {
    "condition",
    "needs",
    "tools",
    "decoding",
    "accuracy",
    "n",
    "ci95",
    "calls_per_question",
    "seed",
    "seconds",
}

pytestmark = pytest.mark.slow


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "experiments/quickstart.py", "--preset", "short", "--out", str(out), *more]


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("quickstart") / "whole"
    done = finish(command(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def policies(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "seed_0" / "policy").glob("*.safetensors"))}


def test_table_has_every_condition_in_the_agreed_form(run):
    rows = json.loads((run / "table.json").read_text())
    assert {row["condition"] for row in rows} == CONDITIONS
    for row in rows:
        assert set(row) == KEYS
        assert row["decoding"] in ("greedy", "sampled") and isinstance(row["tools"], bool)
        assert 0 <= row["ci95"][0] <= row["accuracy"] <= row["ci95"][1] <= 1
    assert {row["needs"] for row in rows} == {"none", "zoom", "detail", "window", "several", "measure", "all"}
    trained = {(row["tools"], row["decoding"]) for row in rows if row["condition"] == "sft_grpo"}
    assert trained == {(True, "greedy"), (True, "sampled"), (False, "greedy"), (False, "sampled")}
    assert all(row["calls_per_question"] == 0 for row in rows if row["condition"] == "no_tools")


def test_report_curves_and_metrics_are_there(run):
    page = (run / "report.html").read_text()
    assert len(set(re.findall(r"test/[a-z_]+/\d{6}", page))) >= 30
    assert "not for clinical use" in page and "http://" not in page and "https://" not in page
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "zoom" in (run / "table.md").read_text()
    stages = [json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(stages) == {"perception", "no_tools", "sft", "grpo"}


def test_every_panel_of_the_curves_has_its_metrics(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for panel in PANELS:
        written = {name for record in records if record["stage"] == panel.stage for name in record}
        for name in panel.names:
            found = [one for one in written if one.startswith(name[:-1])] if name.endswith("*") else {name} & written
            assert found, f"{panel.title}: no metric {name} among {sorted(written)}"


def test_rollout_and_loss_agree_in_the_run(run):
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    gaps = [record["logprob_mismatch_max"] for record in records if record["stage"] == "grpo"]
    assert gaps and max(gaps) < 1e-4


def test_a_second_call_reuses_every_stage(run):
    before = policies(run)
    done = finish(command(run))
    assert done.returncode == 0, done.stderr[-3000:]
    for stage in ("perception", "no_tools", "sft", "grpo"):
        assert f"[{stage}] reused" in done.stderr
    assert policies(run) == before


def test_ctrl_c_then_resume_ends_where_an_unbroken_run_ends(run, tmp_path):
    out = tmp_path / "broken"
    process = subprocess.Popen(command(out), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 600
    # The first checkpointed metric of SFT: two stages are done by then, one is under way.
    metrics = out / "seed_0" / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if metrics.exists() and '"sft"' in metrics.read_text():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 130, output[-3000:]
    assert "--resume" in output and "Traceback" not in output
    done = finish(command(out, "--resume"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert policies(out) == policies(run)
    steps = [json.loads(line) for line in metrics.read_text().splitlines()]
    named = [(record["stage"], record["step"]) for record in steps]
    assert len(named) == len(set(named)), "a resumed run wrote a step twice"


def test_replay_to_the_bit_and_a_changed_bit_is_noticed(run):
    replay = [sys.executable, "-m", "medvista_jax", "replay", str(run / "seed_0")]
    same = finish([*replay, "--trajectory", "3"])
    assert same.returncode == 0 and "the same to the bit" in same.stdout, same.stdout + same.stderr[-2000:]
    path = run / "seed_0" / "trajectories" / "sft_grpo.npz"
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files}
    arrays["logprobs_BS"] = np.nextafter(arrays["logprobs_BS"], np.float32(-9))
    kept = path.read_bytes()
    np.savez_compressed(path, **arrays)
    changed = finish([*replay, "--trajectory", "3"])
    path.write_bytes(kept)
    assert changed.returncode == 1 and "logprobs_BS" in changed.stdout
    missing = finish([*replay, "--trajectory", "999"])
    assert missing.returncode == 2 and "outside 0" in missing.stdout and "Traceback" not in missing.stderr


def test_the_run_is_exported_with_its_card(run, tmp_path):
    done = finish([sys.executable, "experiments/export.py", str(run), str(tmp_path / "out"), "--policy", "sft"])
    assert done.returncode == 0, done.stderr[-2000:]
    _, params = read_folder(tmp_path / "out")
    saved = load_file(run / "seed_0" / "policy" / "sft.safetensors")
    assert {path: np.asarray(x).tobytes() for path, x in flatten(params).items()} == {
        path: x.tobytes() for path, x in saved.items()
    }
    results = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    rows = [row for row in json.loads((run / "table.json").read_text()) if row["condition"] == "sft"]
    assert [(one.metric_value, one.metric_args["ci95"], one.metric_args["n"]) for one in results] == [
        (row["accuracy"], row["ci95"], row["n"]) for row in rows
    ]
    text = (tmp_path / "out" / "README.md").read_text()
    assert "smoke test" in text and "Not for clinical use" in text and "| mni2009c |" in text
    assert str(run) not in text and "--preset short" in text


def test_help_shows_the_knobs_and_a_wrong_one_is_named():
    shown = finish([sys.executable, "experiments/quickstart.py", "--help"])
    assert shown.returncode == 0
    for knob in ("--seeds", "--resume", "--teacher.shift", "--grpo.prompts", "--preset"):
        assert knob in shown.stdout
    wrong = finish([sys.executable, "experiments/quickstart.py", "--sedes", "3"])
    assert wrong.returncode != 0 and "Traceback" not in wrong.stderr
