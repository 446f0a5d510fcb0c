"""A small random hub model as a policy: its words against a decoding loop without cache, rollout and stops."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from medvista_jax.evaluation.benchmark.__main__ import main
from medvista_jax.evaluation.benchmark.hub_policy import Generation, HubPolicy, turn_ends
from medvista_jax.evaluation.benchmark.lines import BadRun
from medvista_jax.evaluation.protocols import Ask
from medvista_jax.text.chat import INSTRUCTION
from medvista_jax.text.hub_chat import load_chat
from tests.checkpoints import TINY, tensors_of
from tests.evaluation import miniatures
from tests.text import hub_folders

NEW = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small Qwen2.5-VL whose template has no words for tools."""
    folder = tmp_path_factory.mktemp("policy") / "qwen2_5_vl"
    hub_folders.write_folder(folder, "qwen2.5", jinja=hub_folders.QWEN2_5_VL)
    config = TINY["qwen2_5_vl"] | {"image_token_id": load_chat(folder).tokenizer.special["<|image_pad|>"]}
    config |= {"dtype": "float32", "text_config": TINY["qwen2_5_vl"]["text_config"] | {"vocab_size": 640}}
    hub_folders.write_folder(folder, "qwen2.5", jinja=hub_folders.QWEN2_5_VL, **config)
    save_file({name: 0.2 * value for name, value in tensors_of(folder).items()}, folder / "model.safetensors")
    return folder


def picture(seed, size=(16, 16)):
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue(), pixels


ASKS = [
    Ask("vqa_rad", f"test-{n}", text, (picture(n)[0],))
    for n, text in enumerate(("Which?", "Is it normal, or not?", "A"))
]


@functools.partial(jax.jit, static_argnames=("model",))
def next_token(model, params, tokens_T, feature_T, count, pixels):
    """The likeliest token behind ``count``: one pass over the whole sequence, padded on the right."""
    features = jax.tree.map(lambda x: x[None], model.encode_images(params, pixels[None]))
    valid_BT = (jnp.arange(len(tokens_T)) < count)[None]
    positions_BTZ, _ = model.positions(jnp.zeros((1,), jnp.int32), valid_BT, feature_T[None])
    hidden_BTE, _ = model.forward(params, tokens_T[None], feature_T[None], features, positions_BTZ, valid_BT)
    return jnp.argmax(model.logits(params, hidden_BTE[0, count - 1]))


def uncached(policy, ask, pixels):
    """Greedy words: the whole sequence through the model for every token, no cache, no rollout."""
    prompt = policy.chat.prompt(ask.text, [policy.model.tokens_per_image], (), None)
    tokens, feature = np.zeros(160, np.int32), np.full(160, -1, np.int32)
    count = len(prompt.tokens)
    tokens[:count], feature[:count] = prompt.tokens, prompt.feature
    for at in range(count, count + NEW):
        tokens[at] = next_token(policy.model, policy.params, tokens, feature, at, pixels)
    return policy.chat.tokenizer.decode(tokens[count : count + NEW].tolist()).strip()


def test_replies_are_those_of_a_loop_without_cache(folder):
    policy = HubPolicy(folder, Generation(NEW, at_once=2), view=16)
    replies = policy.reply(ASKS)
    assert [reply.text for reply in replies] == [uncached(policy, ask, picture(n)[1]) for n, ask in enumerate(ASKS)]
    assert all(reply.turns == () and reply.calls == 0 for reply in replies) and policy.tools == ()
    assert len({reply.text for reply in replies}) > 1
    # A reply depends on its question alone, sampled ones too.
    hot = HubPolicy(folder, Generation(NEW, temperature=1.0, seed=3, at_once=2), view=16)
    together = [reply.text for reply in hot.reply(ASKS)]
    assert [hot.reply([ask])[0].text for ask in reversed(ASKS)] == together[::-1]
    other = HubPolicy(folder, Generation(NEW, temperature=1.0, seed=4, at_once=2), view=16)
    assert [reply.text for reply in other.reply(ASKS)] != together


def test_replies_on_a_mesh_are_those_of_one_device(folder):
    variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.evaluation.benchmark.on_mesh", str(folder)]
    run = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    (one, alone), (four, together) = map(json.loads, run.stdout.splitlines())
    assert (one, four) == (1, 4) and together == alone and len(set(alone)) > 1


def test_the_prompt_without_and_with_tools(folder):
    read = lambda policy, question: policy.chat.tokenizer.decode(question.tokens_PS[0][question.valid_PS[0]])  # noqa: E731
    plain = HubPolicy(folder, Generation(NEW, at_once=1), view=16)
    question = plain.question(ASKS[:1])
    text = read(plain, question)
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
    )
    assert text.endswith("<|vision_end|>Which?<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|image_pad|>") == plain.model.tokens_per_image == int((question.feature_PS[0] >= 0).sum())
    assert (question.max_turns_P.tolist(), question.max_calls_P.tolist()) == ([1], [0])
    tooled = HubPolicy(folder, Generation(40, at_once=1, turns=2), tools=("zoom_in",), view=16)
    question = tooled.question(ASKS[:1])
    text = read(tooled, question)
    assert INSTRUCTION in text and '"name": "zoom_in"' in text and tooled.tools == ("zoom_in",)
    assert (question.max_turns_P.tolist(), question.max_calls_P.tolist()) == ([2], [1])
    (reply,) = tooled.reply(ASKS[:1])
    assert len(reply.turns) == 2 and reply.text == reply.turns[-1]  # a random model neither calls nor answers
    assert tooled.about() | {"dtype": ""} == {
        "view": [16, 16],
        "tokens_per_image": tooled.model.tokens_per_image,
        "turns": 2,
        "turn_tokens": 20,
        "top_p": 1.0,
        "dtype": "",
    }


def test_the_model_ends_its_turn(folder):
    policy = HubPolicy(folder, Generation(NEW, at_once=1), view=16)
    tokenizer = policy.chat.tokenizer
    assert turn_ends(policy.chat) == ("<|im_end|>",)
    stops = policy.environment.stops
    assert stops.table[0, tokenizer.special["<|im_end|>"]] == stops.found
    state = 0
    for token in tokenizer.encode("<answer>B</answer>"):  # without tools nothing else ends it
        state = int(stops.table[state, token])
    assert state != stops.found
    assert policy._text(np.array(tokenizer.encode(" Yes<|im_end|>"))) == "Yes"


def test_faults(folder):
    policy = HubPolicy(folder, Generation(NEW, at_once=1), view=16)
    with pytest.raises(BadRun, match="vqa_rad x: image 1 of x"):
        policy.reply([Ask("vqa_rad", "x", "Which?", (b"no image",))])
    with pytest.raises(ValueError, match="no tool 'zoom'"):
        HubPolicy(folder, Generation(NEW), tools=("zoom",), view=16)
    with pytest.raises(ValueError, match="at least 1"):
        Generation(0)


def test_the_command_with_a_model(folder, tmp_path, capsys):
    data = miniatures.prepared(tmp_path, "vqa_rad")
    run = ["--protocol", "medvlthinker", "--sets", "vqa_rad", "--data", data, "--subset", "--model", folder]
    run += ["--out", tmp_path / "out", "--max-new-tokens", NEW, "--view", "16", "--at-once", "2"]
    assert main(list(map(str, run))) == 0
    assert f"max_new_tokens is {NEW}, the protocol's 4096" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "vqa_rad.result.json").read_text())
    assert (result["n"], result["policy"], result["settings"]["view"]) == (3, str(folder), [16, 16])
    assert main(list(map(str, [*run[:-1], "1", "--resume"]))) == 0  # at once is no setting of the answers
