"""Host tools in a rollout: rows that ask are answered, the others are as if nobody had asked."""

from __future__ import annotations

import functools
import threading

import jax
import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Fault
from medvista_jax.environment import gym
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.host_calls import full_view
from medvista_jax.rollout.host_loop import rollout_with_host
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.text.tokenizer import encode_plain
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostReply
from medvista_jax.tools.host.declare import host_tool
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests import tiny


@host_tool("Say the size and the word.", Argument("word", "a word", "string"))
def echo(image, word):
    return f"{word} {image.width}x{image.height}"


@host_tool("Fail.", Argument("how", "way", "enum", choices=("raise", "hang")), timeout_s=0.2)
def fail(how):
    if how == "raise":
        raise RuntimeError("on purpose")
    threading.Event().wait(5)
    return "too late"


ECHO = f"<tool_call>{echo.spec.render_call(word='no</answer>')}</tool_call>"
ECHO_ZOOM = '<tool_call>{"name": "echo", "arguments": {"word": "two", "image_index": 1}}</tool_call>'
NO_IMAGE = '<tool_call>{"name": "echo", "arguments": {"word": "x", "image_index": 2}}</tool_call>'
RAISE = '<tool_call>{"name": "fail", "arguments": {"how": "raise"}}</tool_call>'
HANG = '<tool_call>{"name": "fail", "arguments": {"how": "hang"}}</tool_call>'
ROWS = (
    (ECHO, "", ""),
    (tiny.ZOOM, ECHO_ZOOM, "<answer>7</answer>"),
    (RAISE, HANG, ""),
    (NO_IMAGE, tiny.ZOOM, ""),
    ("", tiny.ZOOM, "<answer>7</answer>"),
    ("<answer>left</answer>", "", ""),
)


@functools.cache
def environment():
    tools = (*DEFAULT_TOOLS.values(), echo, fail)
    return build_environment(
        tiny.TOKENIZER,
        tools,
        tiny.MODEL.tokens_per_image,
        tiny.MODEL.image_size,
        tiny.TURNS,
        tiny.TURN_TOKENS,
        host_tokens=24,
    )


ARGUMENTS = (jax.random.key(1), 2, Sampling.at(1.0))


def played(rows=ROWS, run=run_batch, question=None):
    question = tiny.make_question() if question is None else question
    key, group, sampling = ARGUMENTS
    return rollout_with_host(
        tiny.MODEL,
        tiny.params(),
        environment(),
        tiny.TOKENIZER,
        question,
        key,
        group,
        sampling,
        tiny.make_script(rows),
        run,
    )


@pytest.fixture(scope="module")
def trajectory():
    return played()


def test_a_tools_words_stand_in_the_sequence_and_act_as_no_tag(trajectory):
    text = tiny.texts_of(trajectory, 0)
    rows, columns = tiny.CANVAS
    assert f"<tool_response>no</answer> 256x{round(256 * rows / columns)}</tool_response>" in text
    ids = np.asarray(trajectory.tokens_BS[0])[np.asarray(trajectory.valid_BS[0] & ~trajectory.sampled_BS[0])]
    assert tiny.TOKENIZER.special["</answer>"] not in ids
    assert int(trajectory.turns.fault_BR[0, 0]) == Fault.NONE and int(trajectory.views.count_B[0]) == 1


def test_a_tool_is_given_the_view_that_the_call_names(trajectory):
    """(100, 200, 600, 900) of 30 x 24 pixels are 15 x 16.8, shown with 256 pixels on the longer side."""
    assert "two 229x256, answer now</tool_response>" in tiny.texts_of(trajectory, 1)
    assert bytes(np.asarray(trajectory.answer_BN[1, :1])) == b"7"


def test_failures_are_observations(trajectory):
    text = tiny.texts_of(trajectory, 2)
    assert "error: the tool failed</tool_response>" in text
    assert "error: the tool did not answer in time, answer now</tool_response>" in text
    assert np.asarray(trajectory.turns.fault_BR[2, :2]).tolist() == [Fault.TOOL_FAILED, Fault.TOOL_TIMED_OUT]
    assert "error: no such image</tool_response>" in tiny.texts_of(trajectory, 3)


def test_rows_that_ask_nothing_are_played_as_without_a_host(trajectory):
    """The compiled loop, where a host tool fails, and this one play the same tokens in every row that asks no host."""
    key, group, sampling = ARGUMENTS
    script = tiny.make_script(ROWS)
    question = tiny.make_question()
    one = jax.jit(rollout, static_argnames=("model", "group"))
    alone = one(tiny.MODEL, tiny.params(), environment(), question, key, group, sampling, script)
    length = int(np.asarray(alone.valid_BS.sum(1)).max())
    trajectory, alone = (tiny.packed(t, length) for t in (trajectory, alone))  # slots lie elsewhere
    for row in (3, 4, 5):
        here, there = (jax.tree.map(lambda leaf, row=row: leaf[row], t) for t in (trajectory, alone))
        assert tiny.same_bits(here.tokens_BS, there.tokens_BS) and tiny.same_bits(here.views, there.views)
        np.testing.assert_allclose(here.logprobs_BS, there.logprobs_BS, atol=2e-5)
    assert int(alone.turns.fault_BR[0, 0]) == Fault.TOOL_FAILED  # nobody to ask: an observation, no exception


def test_one_batch_a_turn_and_none_where_nobody_asks():
    batches = []

    def run(tools, calls):
        batches.append([call.tool for call in calls])
        return [HostReply("fine") for _ in calls]

    played(run=run)
    assert batches == [["echo", "fail"], ["echo", "fail"]]
    batches.clear()
    played([(tiny.ZOOM, "<answer>7</answer>", "")] * 6, run)
    assert batches == []


def test_a_replay_gives_the_replies_back(trajectory):
    """Same key, same script, the recorded replies: the same bits, though no tool runs."""
    replies = iter(
        [
            [HostReply("no</answer> 256x205"), HostReply("", Fault.TOOL_FAILED)],
            [HostReply("two 229x256"), HostReply("", Fault.TOOL_TIMED_OUT)],
        ]
    )
    again = played(run=lambda tools, calls: next(replies))
    assert tiny.same_bits(again, trajectory)


def test_long_replies_are_cut_to_their_place():
    trajectory = played(run=lambda tools, calls: [HostReply("left " * 500) for _ in calls])
    words = encode_plain(tiny.TOKENIZER, "left " * 500)[:24]
    assert f"<tool_response>{tiny.TOKENIZER.decode(words)}</tool_response>" in tiny.texts_of(trajectory, 0)


def test_the_question_is_not_consumed():
    """Donated buffers are the loop's own: the same question plays again."""
    question = tiny.make_question()
    first = played(question=question, run=lambda tools, calls: [HostReply("a") for _ in calls])
    again = played(question=question, run=lambda tools, calls: [HostReply("a") for _ in calls])
    assert tiny.same_bits(first, again)


def test_full_views_show_the_pixels_of_the_original():
    question = tiny.make_question()
    low, high = (float(question.bank.window_PO2[1, 0, k]) for k in range(2))
    state = gym.reset(environment(), question, 2)
    image = full_view(environment(), state, 2, 0)
    rows, columns = tiny.CANVAS
    assert image.shape == (round(256 * rows / columns), 256, 3) and (image[..., :1] == image).all()
    pixels = np.asarray(question.bank.pixels_POYXC[1, 0, :, :, 0], np.float32)
    grey = Image.fromarray(pixels).resize((256, 256), Image.Resampling.BILINEAR)
    shown = np.round(np.clip((np.asarray(grey) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    expected = Image.fromarray(shown).resize(image.shape[1::-1], Image.Resampling.BILINEAR)
    # One level where the first resampling rounds to the other side, and the second spreads it.
    assert np.abs(image[..., 0].astype(int) - np.asarray(expected).astype(int)).max() <= 1
