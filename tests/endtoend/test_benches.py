"""The benches beside peers run, count right and say what they must; their figures at such sizes mean nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvista_jax.runtime.compile_cache import cache_folder

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TUNIX = cache_folder() / "tunix-0.1.7" / "installed"


def run(script: str, *arguments: str) -> tuple[str, dict]:
    out = Path(arguments[arguments.index("--json") + 1])
    environment = os.environ | {"PYTHONPATH": str(EXPERIMENTS.parent), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(EXPERIMENTS / script), "--preset", "short", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_rollout(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    printed, told = run("bench_rollout.py", "--json", str(tmp_path / "figures.json"), "--out", str(tmp_path))
    assert "582,096 parameters" in printed and told["circumstances"]["commit"] in printed
    (row,) = told["transformers"]
    assert row["tokens"] == 2 * 2 * 32  # conversations, turns, tokens: what the peer is asked for, and ours checks
    assert told["ratio_tokens_per_s_vs_transformers_2"] == pytest.approx(
        row["peer"]["seconds"] / row["ours"]["seconds"]
    )
    assert 0 < told["share_of_peak_flops"] < 1
    assert 0 < told["slots"]["lockstep_utilisation"] < told["slot_utilisation"] < 1
    assert told["multi_turn_over_single_turn"] > 0 and told["growth"]["tokens"]["sizes"] == [32, 64]
    assert (tmp_path / "rollout_growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("peer", [False, True])
def test_step(tmp_path, peer):
    if peer and not TUNIX.exists():
        pytest.skip("tunix's environment is not made; experiments/bench_step.py makes it")
    printed, told = run("bench_step.py", "--json", str(tmp_path / "figures.json"), *([] if peer else ["--no-peer"]))
    assert "| GRPO step |" in printed and told["GRPO step"]["ours"]["seconds"] > 0
    ratios = {"ratio_cpu_s_vs_tunix_3_turns", "ratio_cpu_s_vs_tunix_1_turn", "ratio_step_vs_tunix"}
    assert ratios & set(told) == (ratios if peer else set())


def test_no_index_is_one_clear_message(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(EXPERIMENTS.parent),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
    }
    command = [sys.executable, str(EXPERIMENTS / "bench_step.py"), "--venv", str(tmp_path / "none")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "google-tunix==0.1.7 could not be installed" in done.stderr and "--no-peer" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "none" / "installed").exists()


def test_peers_answer_and_die_with_a_message(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    from peers.measure import by_turns
    from peers.wire import Peer

    script = tmp_path / "peer.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(EXPERIMENTS / 'peers')!r})\n"
        "from wire import serve\n"
        "def double(x):\n    print('noise')\n    return 2 * x\n"
        "serve({'double': double, 'die': lambda: sys.exit(3)})\n"
    )
    with Peer(script) as peer:
        assert peer.ask("double", x=21)["result"] == 42
        with pytest.raises(RuntimeError, match="peer.py ended with 3 at 'die'"):
            peer.ask("die")
    answers = iter([3.0, 30.0, 1.0, 10.0, 2.0, 20.0])  # by turns: one call's are 3 1 2, the other's 30 10 20
    call = lambda: dict.fromkeys(("seconds", "cpu_seconds"), next(answers))  # noqa: E731
    assert [median["seconds"] for median in by_turns(3, call, call)] == [2.0, 20.0]
