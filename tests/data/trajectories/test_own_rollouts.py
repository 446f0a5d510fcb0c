"""Promise 1 through a file: rollouts that are written and read back are the same ids, masks, features and pixels."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvista_jax.data.trajectories import (
    Record,
    Source,
    TrajectoryPool,
    Writer,
    encode_turns,
    fingerprint,
    read_records,
    records_of,
)
from medvista_jax.data.trajectories.played import rendered, runs_of
from medvista_jax.environment.items import Item, Picture
from medvista_jax.learning.sft import sft_update
from medvista_jax.models.mrope import grid_positions, grid_table
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.scripted import encode_slots
from medvista_jax.text.byte_tokenizer import ByteTokenizer
from medvista_jax.text.chat import CompactChat
from tests import tiny

CHAT = CompactChat(tiny.TOKENIZER)
SOURCE = Source("checkpoint", "tiny", temperature=1.0, key=(1,))
PER_SLOT = ("tokens_BS", "sampled_BS", "feature_BS", "positions_BSZ", "turn_BS", "logprobs_BS", "allowed_BS")


def items_of(question) -> list[Item]:
    pixels, window = np.asarray(question.bank.pixels_POYXC), np.asarray(question.bank.window_PO2)
    return [
        Item(text, answer, [Picture(pixels[row, 0], tuple(map(float, window[row, 0])))], f"test/two/{row:06d}", "two")
        for row, (text, answer) in enumerate(zip(tiny.QUESTIONS, tiny.ANSWERS, strict=True))
    ]


@pytest.fixture(scope="module")
def question():
    return tiny.make_question()


@pytest.fixture(scope="module")
def trajectory():
    return tiny.played(tiny.make_script(tiny.MIXED))


@pytest.fixture(scope="module")
def records(question, trajectory, tmp_path_factory) -> list[Record]:
    """Through the file."""
    path = tmp_path_factory.mktemp("own") / "t.jsonl"
    with Writer(path) as out:
        for record in records_of(tiny.environment(), CHAT, items_of(question), question, trajectory, SOURCE):
            out.write(record)
    return list(read_records(path))


def make_pool(records, **changes) -> TrajectoryPool:
    slots = tiny.PROMPT_SLOTS + 3 * tiny.TURN_TOKENS + 2 * tiny.environment().observation_slots
    settings = {"slots": slots, "canvas": tiny.CANVAS} | changes
    return TrajectoryPool(records, tiny.MODEL, tiny.environment(), CHAT, **settings)


@pytest.fixture(scope="module")
def pool(records):
    return make_pool(records)


def test_ids_masks_features_and_positions_are_the_same(pool, trajectory):
    again, _ = pool.batch(np.arange(6))
    packed = tiny.packed(trajectory, again.tokens_BS.shape[1])
    valid = np.asarray(packed.valid_BS)
    np.testing.assert_array_equal(again.valid_BS, valid)
    assert pool.exact.all() and again.sampled_BS.sum() > 60
    for name in PER_SLOT:
        np.testing.assert_array_equal(
            np.asarray(getattr(again, name))[valid], np.asarray(getattr(packed, name))[valid], err_msg=name
        )


def test_turns_and_outcomes_are_the_same(pool, trajectory, records):
    again, _ = pool.batch(np.arange(6))
    for name in ("turns_B", "calls_B", "answer_BN", "answer_length_B", "truncated_B"):
        np.testing.assert_array_equal(getattr(again, name), np.asarray(getattr(trajectory, name)), err_msg=name)
    np.testing.assert_array_equal(again.views.count_B, np.asarray(trajectory.views.count_B))
    for field in dataclasses.fields(again.turns):
        if field.name != "arguments_BRA":  # of a faulty call the device keeps what it read so far
            ours, was = getattr(again.turns, field.name), np.asarray(getattr(trajectory.turns, field.name))
            np.testing.assert_array_equal(ours, was, err_msg=field.name)
    sound = np.asarray(trajectory.turns.fault_BR) == 0
    np.testing.assert_array_equal(again.turns.arguments_BRA[sound], np.asarray(trajectory.turns.arguments_BRA)[sound])
    outcomes = [(record.outcome.answer, record.outcome.correct, record.outcome.truncated) for record in records]
    assert outcomes[2] == ("left", False, False) and outcomes[3][0] == "7"  # row 2 is of the second question
    assert outcomes[3][1] is True and [record.id for record in records[:3]] == ["test/two/000000"] * 2 + [
        "test/two/000001"
    ]


def test_pixels_are_the_same_bytes(pool, question, trajectory):
    _, pixels = pool.batch(np.arange(6))
    expected = rendered(tiny.environment(), question, trajectory)
    used = np.arange(pixels.shape[1])[None] < np.asarray(trajectory.views.count_B)[:, None]
    assert used[:, 1:].any() and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels[used], expected[used])
    originals = np.repeat(np.asarray(tiny.render_originals(tiny.environment(), question.bank)), 2, axis=0)
    np.testing.assert_array_equal(pixels[:, 0], originals[:, 0])


def test_on_a_larger_canvas_pixels_agree_to_rounding(records, question):
    _, pixels = make_pool(records[:1], canvas=(64, 64)).batch(np.arange(1))
    expected = np.asarray(tiny.render_originals(tiny.environment(), question.bank))[0, 0]
    assert np.abs(pixels[0, 0].astype(int) - expected.astype(int)).max() <= 1


def test_loss_falls_on_what_the_policy_said(pool, records):
    again, _ = pool.batch(np.arange(6))
    for row, record in enumerate(records):
        said = [token for turn in record.turns for token in turn.ids]
        assert again.tokens_BS[row][again.sampled_BS[row]].tolist() == said
        assert not (again.sampled_BS[row] & (again.feature_BS[row] >= 0)).any()
    text = tiny.TOKENIZER.decode(again.tokens_BS[1][again.sampled_BS[1]].tolist())
    assert text.startswith("<think>x</think>" + tiny.WINDOW + tiny.ZOOM_AGAIN)  # no observation between the two


def test_the_loss_of_the_file_is_the_rollouts_own(pool):
    """Promise 2 through a file: ids, positions, features and pixels give the log-probabilities they were drawn with.

    The views were 8-bit pixels in the rollout too, so only the order of sums differs.
    """
    batch, pixels = pool.batch(np.arange(6))
    features = jax.jit(encode_slots, static_argnums=0)(tiny.MODEL, tiny.params(), jnp.asarray(pixels))
    scores = tiny.score(tiny.MODEL, tiny.params(), batch, features, jnp.ones(()))
    said = batch.sampled_BS
    np.testing.assert_allclose(np.asarray(scores.logprob_BS)[said], batch.logprobs_BS[said], atol=1e-4)
    assert np.abs(batch.logprobs_BS[said]).mean() > 1


@pytest.mark.slow
def test_updates_from_the_file_and_from_the_played_script_are_the_same_step(question):
    """Way (a), the gym plays the turns; way (b), all comes from the file."""
    script = tiny.make_script(tiny.LESSONS)
    enacted, _ = tiny.enacted(tiny.environment(), question, script)
    records = list(records_of(tiny.environment(), CHAT, items_of(question), question, enacted, SOURCE))
    pool = make_pool(records)
    trajectory, pixels = pool.batch(np.arange(3))
    pair = encode_turns(records, tiny.TOKENIZER, tiny.TURNS, tiny.TURN_TOKENS)
    for ours, was in zip(pair, (script.tokens_BRT, script.length_BR), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(was))
    trainable = ("^decoder", "^connector")
    one, metrics = tiny.learn(tiny.make_state(trainable), question, Script(*pair))
    other, again = sft_update(
        tiny.MODEL, tiny.optimizer(), tiny.SFT, tiny.make_state(trainable), trajectory, jnp.asarray(pixels)
    )
    assert float(again["loss"]) == pytest.approx(float(metrics["loss"]), abs=1e-6)
    assert float(again["gradient_norm"]) == pytest.approx(float(metrics["gradient_norm"]), rel=1e-5)
    assert metrics.keys() == again.keys() and int(again["longest"]) == int(metrics["longest"])
    pairs = [(np.asarray(one.trainable[name]), np.asarray(leaf)) for name, leaf in other.trainable.items()]
    far = np.concatenate([(np.abs(a - b) > 1e-6).ravel() for a, b in pairs])
    assert far.mean() < 1e-3  # Adam's first step is the gradient's sign: where that is a rounding, it may differ


def without_ids(record: Record) -> Record:
    """The record as an importer leaves it: words only."""
    turns = []
    for turn in record.turns:
        seen = turn.observation and dataclasses.replace(turn.observation, ids=None, feature=())
        turns.append(dataclasses.replace(turn, ids=None, logprobs=None, observation=seen))
    source = dataclasses.replace(record.source, tokenizer="", tokens_per_image=0)
    return dataclasses.replace(record, prompt=None, turns=tuple(turns), source=source)


def test_words_alone_give_the_same_ids_where_they_are_canonical(question):
    """Prompt, tools, frame, image slots and numbers are written as the environment writes them."""
    enacted, _ = tiny.enacted(tiny.environment(), question, tiny.make_script(tiny.LESSONS))
    records = list(records_of(tiny.environment(), CHAT, items_of(question), question, enacted, SOURCE))
    exact, written = make_pool(records), make_pool([without_ids(record) for record in records])
    assert exact.exact.all() and not written.exact.any()
    (one, pixels), (other, again) = exact.batch(np.arange(3)), written.batch(np.arange(3))
    for name in ("valid_BS", *PER_SLOT):
        np.testing.assert_array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)), err_msg=name)
    np.testing.assert_array_equal(pixels, again)


def test_ids_of_the_same_vocabulary_are_never_encoded_again():
    """``c`` + ``at`` is one way to spell a text that the tokenizer itself would spell otherwise."""
    text = "<think>look closer</think><answer>left</answer>"
    odd = [token for character in text for token in tiny.TOKENIZER.encode(character)]
    question = tiny.make_question()
    enacted, _ = tiny.enacted(
        tiny.environment(), question, tiny.make_script(((tiny.ZOOM, "<answer>left</answer>"),) * 3)
    )
    (record, *_) = records_of(tiny.environment(), CHAT, items_of(question), question, enacted, SOURCE)
    odd = odd[: tiny.TURN_TOKENS]
    assert odd != tiny.TOKENIZER.encode(tiny.TOKENIZER.decode(odd))
    turns = (record.turns[0], dataclasses.replace(record.turns[1], text=tiny.TOKENIZER.decode(odd), ids=tuple(odd)))
    changed = dataclasses.replace(record, turns=turns)
    batch, _ = make_pool([changed]).batch(np.arange(1))
    assert batch.tokens_BS[0][batch.turn_BS[0] == 1].tolist() == odd
    tokens, lengths = encode_turns([changed], tiny.TOKENIZER, 3, tiny.TURN_TOKENS)
    assert tokens[0, 1, : lengths[0, 1]].tolist() == odd
    # Under another vocabulary the same numbers mean something else: the text counts.
    foreign = dataclasses.replace(changed, source=dataclasses.replace(record.source, tokenizer="another"))
    batch, _ = make_pool([foreign], slots=300).batch(np.arange(1))
    assert batch.tokens_BS[0][batch.turn_BS[0] == 1].tolist() == tiny.TOKENIZER.encode(tiny.TOKENIZER.decode(odd))
    # Where an image takes another number of embeddings, turns stay exact, and only they.
    wide = dataclasses.replace(changed, source=dataclasses.replace(record.source, tokens_per_image=99))
    pool = make_pool([wide])
    batch, _ = pool.batch(np.arange(1))
    assert not pool.exact[0] and batch.tokens_BS[0][batch.turn_BS[0] == 1].tolist() == odd
    assert (batch.feature_BS[0] >= 0).sum() == 2 * tiny.MODEL.tokens_per_image


def test_the_fingerprint_is_of_what_ids_mean():
    assert fingerprint(tiny.TOKENIZER) == fingerprint(type(tiny.TOKENIZER)())
    assert fingerprint(tiny.TOKENIZER) != fingerprint(ByteTokenizer())


def test_runs():
    feature = np.array([-1, 4, 5, 6, -1, 8, 9, 12, -1])
    assert runs_of(feature) == ((1, 4, 3), (5, 8, 2), (7, 12, 1)) and runs_of(feature[:1]) == ()


def test_positions_of_a_row_at_once_are_those_of_its_chunks():
    """A pool lays positions for the whole row, the rollout chunk by chunk: M-RoPE must not see the difference."""
    table = np.concatenate([grid_table(2, 3)] * 3)[None]
    feature = np.full((1, 30), -1)
    feature[0, 4:10], feature[0, 17:23] = np.arange(6), np.arange(6, 12)
    valid = np.ones((1, 30), bool)
    place = functools.partial(grid_positions, table_BN3=jnp.asarray(table))
    whole, end = place(jnp.zeros(1, jnp.int32), jnp.asarray(valid), jnp.asarray(feature))
    at, parts = jnp.zeros(1, jnp.int32), []
    for part in (slice(0, 12), slice(12, 15), slice(15, 30)):
        positions, at = place(at, jnp.asarray(valid[:, part]), jnp.asarray(feature[:, part]))
        parts.append(positions)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    assert int(at[0]) == int(end[0])


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({}, {"slots": 40}, "takes .* tokens, more than slots=40; raise slots"),
        ({"turns": ()}, {}, "is a question without a turn"),
        ({"tools": ("no_tool",)}, {}, "offers 'no_tool', which is no tool of this package"),
    ],
)
def test_records_that_do_not_fit_are_named(records, changes, settings, message):
    record = dataclasses.replace(records[0], **changes)
    with pytest.raises(ValueError, match="test/two/000000: " + message):
        make_pool([record], **settings)
    problems: list[str] = []
    if not settings:
        assert len(make_pool([record, records[1]], problems=problems)) == 1 and len(problems) == 1


def test_too_many_turns_and_images_are_named(records):
    turn = records[1].turns[0]
    with pytest.raises(ValueError, match="has 4 turns, more than the environment's 3"):
        make_pool([dataclasses.replace(records[0], turns=(turn,) * 4)])
    with pytest.raises(ValueError, match="has 2 images, more than originals=1"):
        make_pool([dataclasses.replace(records[0], images=records[0].images * 2)])
    with pytest.raises(ValueError, match="logprobs of a turn are not one for each of its ids"):
        make_pool([dataclasses.replace(records[0], turns=(dataclasses.replace(turn, logprobs=(0.0,)),))])


def test_another_chat_than_the_environments_is_refused(question, trajectory):
    class Other(CompactChat):
        @property
        def frame(self):
            return dataclasses.replace(super().frame, before="<other>")

    with pytest.raises(ValueError, match="the chat's frame '<other>"):
        list(records_of(tiny.environment(), Other(tiny.TOKENIZER), items_of(question), question, trajectory, SOURCE))


def test_nothing_of_the_answer_reaches_the_trajectory(pool, records):
    """Promise 4: what a policy reads holds no key; two records that differ in it give the same batch."""
    other = make_pool([dataclasses.replace(record, answer="another", targets=()) for record in records])
    one, again = pool.batch(np.arange(6)), other.batch(np.arange(6))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, again)))
