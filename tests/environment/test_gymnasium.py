"""Gymnasium's door: its own checker, literal rewards and words, the vector env against Gymnasium's SyncVectorEnv."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image

import medvista_jax.environment  # noqa: F401  registers the environment
from medvista_jax.environment.gymnasium_env import MedVistaEnv, MedVistaVectorEnv, UnicodeText
from medvista_jax.environment.items import Item
from tests.environment.boards import ANSWERS, BUCKETS, answer, items, noise, zoom

OPTIONS = {"questions": items(), "tools": ["zoom_in"], "view_size": 16, "turns": 3, "buckets": BUCKETS}


def folder(path):
    """A data set of one question."""
    Image.fromarray(noise(3)[..., 0]).save(path / "a.png")
    row = {"image": "a.png", "question": "Où?", "answer": "left"}
    (path / "questions.jsonl").write_text(json.dumps(row) + "\n")


@pytest.fixture(scope="module")
def env():
    return gymnasium.make("MedVista-v0", render_mode="ansi", pil_images=True, **OPTIONS)


def test_gymnasiums_checker_has_nothing_to_say():
    env = gymnasium.make("MedVista-v0", render_mode="rgb_array", pil_images=True, **OPTIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_the_environment_is_found_by_its_module(tmp_path):
    """In a process that has imported nothing of ours: Gymnasium imports what stands before the colon."""
    folder(tmp_path)
    code = (
        "import gymnasium; env = gymnasium.make('medvista_jax.environment:MedVista-v0', "
        f"questions={str(tmp_path)!r}, tools=['zoom_in']); print(type(env.unwrapped).__name__)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "MedVistaEnv\n"


def test_an_episode_in_words_and_pixels(env):
    observation, info = env.reset(options={"item": 1})
    assert observation["text"] == "Question 1?" and observation["count"] == 1 and info["item"] == "board/1"
    assert '"name": "zoom_in"' in info["system"]
    observation, reward, terminated, truncated, info = env.step(zoom(0, 0, 500, 500))
    assert (observation["text"], observation["count"]) == ("image 1", 2)
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["kind"], info["tool"], info["fault"], info["final"]) == ("call", "zoom_in", "none", False)
    np.testing.assert_array_equal(np.asarray(info["images"][1]), observation["images"][1])
    assert isinstance(info["images"][1], Image.Image) and not observation["images"][2:].any()
    observation, reward, terminated, truncated, info = env.step(answer("RIGHT."))
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert (info["answer"], info["key"], info["correct"]) == ("RIGHT.", "right", True)
    assert env.render().splitlines() == [
        "question: Question 1?",
        f"policy: {zoom(0, 0, 500, 500)}",
        "gym: image 1",
        "policy: <answer>RIGHT.</answer>",
        "over: right",
    ]
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.unwrapped.step(answer("right"))


def test_running_out_of_turns_truncates(env):
    env.reset(options={"item": 0})
    ends = [env.step("so")[1:4] for _ in range(3)]
    assert ends == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]


def test_a_wrong_answer_terminates_without_reward(env):
    env.reset(options={"item": 0})
    assert env.step(answer("right"))[1:4] == (0.0, True, False)


@pytest.mark.parametrize("turn", ["", "é\U0001f9e0\ud800\x00", "<|im_end|>", "ö" * 100_000], ids=range(4))
def test_any_string_is_an_action(env, turn):
    env.reset(options={"item": 0})
    observation, reward, terminated, truncated, info = env.step(turn)
    assert observation["text"].startswith("error: ") and info["fault"] == "no_action"
    assert env.observation_space.contains(observation)


def test_what_is_no_string_is_refused(env):
    env.reset(options={"item": 0})
    with pytest.raises(TypeError, match="an action is a string"):
        env.unwrapped.step(3)


def test_a_seed_draws_the_same_items_again(env):
    def drawn(seed):
        first = env.reset(seed=seed)[1]["index"]
        return [first, *(env.reset()[1]["index"] for _ in range(20))]

    assert drawn(3) == drawn(3) != drawn(4)
    assert set(drawn(3)) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match=r"options\['item'\] is 4; an index from 0 to 3"):
        env.reset(options={"item": 4})


def test_the_answer_is_nowhere_before_the_end():
    """Nothing an agent is given, pictures aside, spells a secret answer."""
    secret = [Item("Where?", "xyzzy-42", [noise(0)], "secret")]
    env = gymnasium.make("MedVista-v0", render_mode="ansi", **{**OPTIONS, "questions": secret})
    given = [env.reset(seed=0), env.step("what"), env.step(zoom(0, 0, 500, 500))]
    assert "xyzzy" not in repr(given) + env.render()
    *_, truncated, info = env.step("well")
    assert truncated and info["key"] == "xyzzy-42" and "wrong, the answer is xyzzy-42" in env.render()


def test_a_rendering_has_the_images_side_by_side():
    env = MedVistaEnv(render_mode="rgb_array", **OPTIONS)
    observation, _ = env.reset(options={"item": 2})
    before = env.render()
    assert before.shape == (16, 3 * 20 - 4, 3) and before.dtype == np.uint8 and not before[:, 16:].any()
    observation, *_ = env.step(zoom(0, 0, 500, 500))
    after = env.render()
    np.testing.assert_array_equal(after[:, 20:36], observation["images"][1])
    np.testing.assert_array_equal(after[:, :20], before[:, :20])
    with pytest.raises(ValueError, match="render_mode 'human' is not one of"):
        MedVistaEnv(render_mode="human", **OPTIONS)


def test_questions_with_more_images_than_the_space_has_room_for_are_refused():
    several = [Item("?", "a", [noise(0)]), Item("?", "b", [noise(1), noise(2)], "two")]
    env = MedVistaEnv(**{**OPTIONS, "questions": several, "originals": 1})
    env.reset(options={"item": 0})
    with pytest.raises(ValueError, match="item 'two' has 2 images; say originals=2"):
        env.reset(options={"item": 1})
    env = MedVistaEnv(**{**OPTIONS, "questions": several})
    assert env.observation_space["images"].shape == (4, 16, 16, 3)
    assert env.reset(options={"item": 1})[0]["count"] == 2


def test_questions_may_be_a_folder(tmp_path):
    folder(tmp_path)
    env = gymnasium.make("MedVista-v0", **{**OPTIONS, "questions": str(tmp_path)})
    assert env.reset()[0]["text"] == "Où?"
    assert env.step(answer("left"))[1] == 1.0


def scripted(rng: np.random.Generator, rows: int) -> tuple[str, ...]:
    turns = [zoom(0, 0, 500, 700), zoom(9, 9, 9, 9), "so", *(answer(text) for text in ANSWERS)]
    return tuple(turns[rng.integers(len(turns))] for _ in range(rows))


def test_the_vector_env_is_as_many_single_ones():
    """Against Gymnasium's SyncVectorEnv over single environments: observations, rewards, ends and infos, bit for bit,
    over automatic resets and a masked reset.
    """
    rows = 3
    ours = gymnasium.make_vec("MedVista-v0", num_envs=rows, **OPTIONS)
    theirs = SyncVectorEnv([lambda: gymnasium.make("MedVista-v0", **OPTIONS)] * rows)
    assert isinstance(ours.unwrapped, MedVistaVectorEnv)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert data_equivalence(ours.reset(seed=5), theirs.reset(seed=5), exact=True)
    rng, ends = np.random.default_rng(0), 0
    for turn in range(25):
        actions = scripted(rng, rows)
        assert ours.action_space.contains(actions)
        one, other = ours.step(actions), theirs.step(actions)
        assert ours.observation_space.contains(one[0])
        assert data_equivalence(one, other, exact=True), turn
        ends += one[2].sum() + one[3].sum()
        if turn == 12:
            mask = np.array([False, True, False])
            again = [e.reset(seed=[None, 7, None], options={"reset_mask": mask.copy()}) for e in (ours, theirs)]
            assert data_equivalence(*again, exact=True)
    assert ends > 10
    kept = one[0]["images"].copy()
    ours.step(actions)
    np.testing.assert_array_equal(one[0]["images"], kept)  # what was handed out does not change


def test_the_vector_env_refuses_what_makes_no_sense():
    env = MedVistaVectorEnv(2, **OPTIONS)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(("a", "b"))
    with pytest.raises(ValueError, match="3 seeds for 2"):
        env.reset(seed=[1, 2, 3])
    env.reset(seed=0)
    with pytest.raises(ValueError, match="1 actions for 2"):
        env.step(("a",))


def test_a_space_of_any_text():
    space = UnicodeText(4, seed=0)
    assert "" in space and "é\ud800\x00ü" in space and "12345" not in space and 3 not in space
    assert all(space.sample() in space for _ in range(100)) and space == UnicodeText(4)
