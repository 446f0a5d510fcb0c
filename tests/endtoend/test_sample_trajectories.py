"""Sampling trajectories as a user does it, of every source: files, filter, table, Ctrl-C, resume, messages."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from medvista_jax import models
from medvista_jax.data.trajectories import Record, TrajectoryPool, read_records
from medvista_jax.data.trajectories.curriculum import read_pass_rates
from medvista_jax.environment.build import build_environment
from medvista_jax.models.lora import LoRAConfig, init_lora, with_lora
from medvista_jax.models.lora_files import save_adapters
from medvista_jax.text.hub_chat import load_chat
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests.checkpoints import TINY, tensors_of
from tests.environment.chat_server import Say, serving, tool_call
from tests.text import hub_folders

ROOT = Path(__file__).resolve().parents[2]
LEFT = "<think>seen</think><answer>left</answer>"


@pytest.fixture(scope="module")
def experiment():
    """The experiment's file as a module."""
    spec = importlib.util.spec_from_file_location("sample_trajectories", ROOT / "experiments/sample_trajectories.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(experiment, monkeypatch, capsys):
    """Runs the command in this process: exit code and what it said."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sample_trajectories.py", *map(str, arguments)])
        code = experiment.main()
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """Three questions about small pictures, as a table."""
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (24, 24), dtype=np.uint8)).save(folder / f"{number}.png")
        row = {"id": f"q{number}", "image": f"{number}.png", "question": f"Where, {number}?", "answer": "left"}
        rows.append(json.dumps(row) + "\n")
    (folder / "questions.jsonl").write_text("".join(rows))
    return folder


def records_in(path: Path) -> list[Record]:
    return list(read_records(path))


TEACH = ("--teach", "--items", 12, "--samples", 2, "--at-once", 6, "--view", 32, "--split", "validation")


@pytest.fixture(scope="module")
def taught(experiment, tmp_path_factory) -> Path:
    """A finished run of the teachers."""
    out = tmp_path_factory.mktemp("taught") / "whole"
    before, sys.argv = sys.argv, ["sample_trajectories.py", *map(str, TEACH), "--out", str(out)]
    try:
        assert experiment.main() == 0
    finally:
        sys.argv = before
    return out


def test_teachers_of_every_family(taught):
    sampled, kept = records_in(taught / "sampled.jsonl"), records_in(taught / "trajectories.jsonl")
    assert len(sampled) == 24 and len({record.family for record in sampled}) == 12
    assert all(record.outcome.correct and record.outcome.well_formed for record in sampled)
    assert all(turn.fault == "NONE" for record in sampled for turn in record.turns)
    assert {record.split for record in sampled} == {"validation"} and sampled[0].source.kind == "teacher"
    zoomed = next(record for record in kept if record.family == "implant_shape" and len(record.turns) > 1)
    assert [image.load().pixels_YXC.shape for image in zoomed.shown()][:2] == [(256, 256, 1), (32, 32, 1)]
    table = json.loads((taught / "table.json").read_text())
    assert sum(counts.get("kept", 0) for counts in table.values()) == len(kept)
    assert sum(counts.get("duplicate", 0) for counts in table.values()) == 24 - len(kept) > 0
    assert f"{len(kept)} of 24 trajectories are kept" in (taught / "table.md").read_text()
    rates = read_pass_rates(taught / "pass_rates.jsonl")
    assert len(rates) == 12 and {rate.rate for rate in rates.values()} == {1.0}


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(run, experiment, taught, tmp_path, monkeypatch):
    """Ctrl-C after the first batch; then the power fails in the middle of the second."""
    out, play = tmp_path / "cut", experiment.play_teacher
    whole = (taught / "sampled.jsonl").read_bytes()

    def interrupted(config, episodes, items, number):
        os.kill(os.getpid(), signal.SIGINT)
        return play(config, episodes, items, number)

    monkeypatch.setattr(experiment, "play_teacher", interrupted)
    code, said = run(*TEACH, "--out", out)
    assert code == 130
    assert "stopped; 12 of 24 trajectories are kept. Go on with:" in said and said.rstrip().endswith("--resume")
    assert (out / "sampled.jsonl").read_bytes() == b"".join(whole.splitlines(True)[:12])
    monkeypatch.setattr(experiment, "play_teacher", play)
    (out / "sampled.jsonl").write_bytes(b"".join(whole.splitlines(True)[:14])[:-30])
    code, said = run(*TEACH, "--out", out, "--resume")
    assert code == 0 and (out / "sampled.jsonl").read_bytes() == whole
    assert (out / "trajectories.jsonl").read_bytes() == (taught / "trajectories.jsonl").read_bytes()
    code, said = run(*TEACH, "--out", out, "--resume", "--keep.per-question", 1)  # another filter, nothing played
    assert code == 0 and len(records_in(out / "trajectories.jsonl")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name one source: --quickstart, --hub, --endpoint or --teach; given: none"),
        (("--teach", "--endpoint", "http://x/v1"), "given: --endpoint, --teach"),
        (("--endpoint", "http://127.0.0.1:9/v1"), "--endpoint needs --endpoint-model"),
        (("--teach", "--questions", "some.jsonl"), "the questions of the atlas only"),
        (("--teach", "--adapters", "x"), "--adapters are for a --hub folder"),
        (("--teach", "--samples", 0), "are at least 1"),
        (("--hub", "nowhere"), "nowhere"),
        (("--quickstart", "nowhere"), "no policy at nowhere"),
        (("--teach", "--reward", "gold"), "no reward 'gold'"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, tmp_path, arguments, message):
    code, said = run(*arguments, "--out", tmp_path / "x", "--items", 12)
    assert code == 1 and "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("sample_trajectories: ") and message in said


def test_another_runs_folder_is_not_overwritten(run, taught):
    code, said = run(*TEACH, "--out", taught)
    assert code == 1 and "go on with --resume, or name another --out" in said
    code, said = run(*TEACH, "--seed", 1, "--out", taught, "--resume")
    assert code == 1 and "was sampled with seed=0, not 1" in said


ZOOM = Say(content="<think>closer</think>", calls=(tool_call("zoom_in", {"bbox_2d": [0, 0, 500, 500]}),))


def test_an_endpoint(run, questions, tmp_path):
    """Right at once, right after a look, wrong; one question's requests fail until the run is resumed."""
    script = {
        "Where, 0?": [Say(content=LEFT)],
        "Where, 1?": [ZOOM, Say(content=LEFT)],
        "Where, 2?": [Say(status=500)],
    }
    with serving(script) as server:
        command = ("--endpoint", server.url, "--endpoint-model", "stub", "--questions", questions, "--samples", 2)
        command += ("--view", 16, "--out", tmp_path, "--asking.retries", 0, "--asking.concurrency", 2)
        code, said = run(*command)
        assert code == 0 and "2 episodes failed; --resume tries them again" in said, said
        server.script["Where, 2?"] = [Say(content="<answer>right</answer>")]
        code, said = run(*command, "--resume")
        assert code == 0 and server.refused == [], said
    sampled = records_in(tmp_path / "sampled.jsonl")
    assert sorted((record.id, record.source.row) for record in sampled) == [
        (f"q{question}", sample) for question in range(3) for sample in range(2)
    ]
    rates = read_pass_rates(tmp_path / "pass_rates.jsonl")
    assert {name: rate.rate for name, rate in rates.items()} == {"q0": 1.0, "q1": 1.0, "q2": 0.0}
    kept = {record.id: record for record in records_in(tmp_path / "trajectories.jsonl")}
    assert sorted(kept) == ["q0", "q1"]  # two samples of each said the same
    looked = kept["q1"]
    assert looked.turns[0].text.startswith("<think>closer</think><tool_call>") and looked.turns[1].text == LEFT
    assert looked.turns[0].observation.text.startswith("image 1") and looked.tools == ("zoom_in", "adjust_window")
    assert looked.shown()[1].load().pixels_YXC.shape == (16, 16, 1)
    assert looked.source.kind == "endpoint" and looked.source.temperature == 1.0 and looked.turns[0].ids is None


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A random small Qwen3-VL under a vocabulary of Qwen's kind."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    hub_folders.write_folder(folder, "qwen3", jinja=hub_folders.QWEN3_VL)
    symbol = load_chat(folder).tokenizer.special["<|image_pad|>"]
    config = TINY["qwen3_vl"] | {"image_token_id": symbol, "dtype": "float32"}
    config["text_config"] = config["text_config"] | {"vocab_size": 640, "dtype": "float32"}
    hub_folders.write_folder(folder, "qwen3", jinja=hub_folders.QWEN3_VL, **config)
    save_file({name: 0.2 * value for name, value in tensors_of(folder).items()}, folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_a_hub_folder_with_and_without_adapters(run, hub, questions, tmp_path):
    model, params = models.load(hub, image_size=(16, 16))
    adapted = with_lora(model, LoRAConfig(rank=2))
    params = jax.tree.map(
        lambda x: x + 0.1 if x.ndim == 2 and 2 in x.shape else x, init_lora(adapted, params, jax.random.key(0))
    )
    save_adapters(adapted, params, tmp_path / "adapters")
    command = ("--hub", hub, "--questions", questions, "--samples", 2, "--at-once", 2, "--turns", 2)
    command += ("--capacities.view", 16, "--capacities.turn-tokens", 24, "--capacities.prompt-slots", 1100)
    for name, more in (("bare", ()), ("adapted", ("--adapters", tmp_path / "adapters"))):
        code, said = run(*command, *more, "--out", tmp_path / name)
        assert code == 0, said
    records = records_in(tmp_path / "bare" / "sampled.jsonl")
    assert [(record.id, record.source.key, record.source.row) for record in records] == [
        ("q0", (0, 0), 0),
        ("q0", (0, 0), 1),
        ("q1", (0, 0), 2),
        ("q1", (0, 0), 3),
        ("q2", (0, 1), 0),
        ("q2", (0, 1), 1),
    ]
    assert all(record.outcome.reward is not None and record.outcome.terms for record in records)
    assert records_in(tmp_path / "bare" / "trajectories.jsonl") == []
    assert "| questions | 6 | 0 | 6 |" in (tmp_path / "bare" / "table.md").read_text().replace(
        questions.name, "questions"
    )
    other = records_in(tmp_path / "adapted" / "sampled.jsonl")
    assert [r.turns[0].ids for r in other] != [r.turns[0].ids for r in records] and " + " in other[0].source.name

    # What was sampled trains as it was sampled: every id, and log-probabilities too.
    chat = load_chat(hub)
    environment = build_environment(
        chat.tokenizer, list(DEFAULT_TOOLS.values()), model.tokens_per_image, (16, 16), 2, 24, style=chat.frame
    )
    batch, pixels = TrajectoryPool(records, model, environment, chat, slots=1400).batch(np.arange(6))
    assert batch.sampled_BS.sum() == sum(len(turn.ids) for record in records for turn in record.turns)
    assert (batch.logprobs_BS[batch.sampled_BS] < 0).all() and jnp.asarray(pixels).dtype == jnp.uint8


def test_questions_of_a_trajectory_file_are_asked_anew(experiment, taught):
    config = experiment.SampleTrajectories(questions=str(taught / "sampled.jsonl"), families=("side", "plane"))
    items = experiment.find_questions(config)
    assert sorted(item.family for item in items) == ["plane", "side"]
    assert items[0].images[0].pixels_YXC.shape == (256, 256, 1)
