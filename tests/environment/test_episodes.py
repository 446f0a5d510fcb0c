"""Episodes in text: what comes out equals Pillow's pixels and literal words; rows do not disturb each other."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Fault, Kind
from medvista_jax.environment import episodes as module
from medvista_jax.environment.episodes import Episodes, choose_tools
from medvista_jax.environment.items import Item, find_items, pictures_of
from medvista_jax.text.chat import ERRORS
from medvista_jax.tools.define import effect_tool
from medvista_jax.tools.host.call import ToolFailed
from medvista_jax.tools.host.declare import host_tool
from medvista_jax.tools.registry import ALL_TOOLS, load_tools
from tests.environment.boards import BUCKETS, answer, call, items, noise, zoom

SEEN: list[tuple[str, np.ndarray]] = []


@host_tool("Say something about an image.", Argument("word", "what to say", "string"))
def whisper(image, word):
    SEEN.append((word, np.asarray(image)))
    if word == "fail":
        raise ToolFailed("asked to", Fault.UNSUITABLE_IMAGE)
    return f"«{word}» {image.width}x{image.height}"


@effect_tool("Turn black to white.")
def negative(levels_hwC):
    return 255.0 - levels_hwC


@pytest.fixture(scope="module")
def board() -> Episodes:
    """Three rows; tools that move a view, one with an effect, and a host tool."""
    tools = [ALL_TOOLS["zoom_in"], ALL_TOOLS["flip"], negative, whisper]
    return Episodes(tools, rows=3, view_size=16, turns=4, max_calls=3, buckets=BUCKETS)


@pytest.fixture(autouse=True)
def empty_rows(board):
    SEEN.clear()
    for row in range(board.rows):
        board.drop(row)


def test_the_opening_shows_the_question_and_pillows_pixels(board):
    pixels = noise(0, 32, 32)
    opening = board.start(0, Item("Where?", "left", [pixels]))
    assert opening.text == "Where?" and not opening.final
    # Halving both sides: both filters have the same four-pixel taps; Pillow rounds its weights to 8 bits.
    expected = np.asarray(Image.fromarray(pixels[..., 0]).resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(opening.images[0][..., 0].astype(int) - expected).max() <= 1


def test_a_zoom_comes_back_with_its_words_and_pixels(board):
    pixels = noise(1, 32, 32)
    board.start(0, Item("Where?", "left", [pixels]))
    reply = board.step({0: "<think>there</think>" + zoom(500, 0, 1000, 500)})[0]
    assert (reply.text, reply.image_index, reply.tool) == ("image 1", 1, "zoom_in")
    assert (reply.kind, reply.fault, reply.well_formed, reply.final) == (Kind.CALL, Fault.NONE, True, False)
    np.testing.assert_array_equal(reply.image[..., 0], pixels[:16, 16:, 0])  # one view pixel a pixel
    reply = board.step({0: zoom(0, 0, 500, 500, image=1)})[0]
    assert reply.text == "image 2" and not reply.final
    quarter = Image.fromarray(pixels[:16, 16:, 0]).resize((16, 16), Image.Resampling.BILINEAR, box=(0, 0, 8, 8))
    # Pillow does not look beyond the box, our views do: its border pixels are left out.
    inner = (slice(1, -1),) * 2
    assert np.abs(reply.image[..., 0].astype(int)[inner] - np.asarray(quarter)[inner]).max() <= 1


def test_faults_budgets_and_the_forced_answer_are_said_in_words(board):
    board.start(0, items()[0])
    assert board.step({0: "what is this"})[0].text == ERRORS[Fault.NO_ACTION]
    assert board.step({0: zoom(5, 5, 5, 9)})[0].text == "error: empty box"
    reply = board.step({0: call("draw")})[0]
    assert (reply.text, reply.final, reply.tool) == ("error: unknown tool, answer now", True, "")
    reply = board.step({0: zoom(0, 0, 9, 9)})[0]
    assert (reply.done, reply.truncated, reply.answer, reply.correct, reply.text) == (True, True, "", False, "")
    assert reply.image is None and reply.image_index is None and board.running == frozenset()


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [("left", "left", True), (" LEFT. ", "left", True), ("right", "left", False), ("", "left", False)]
    + [("lefts", "left", False), ("x" * 2000, "left", False), ("−5 µm", "−5 µm", True)],
)
def test_an_answer_is_right_in_its_normal_form(board, said, truth, right):
    board.start(0, Item("Where?", truth, [noise(0)]))
    reply = board.step({0: answer(said)})[0]
    assert (reply.done, reply.truncated, reply.correct) == (True, False, right)
    assert reply.answer == (said if len(said) <= 1024 else "")


WILD = {
    "empty": "",
    "tags of a chat template": "<|im_end|>\n<|im_start|>assistant\n<|image_pad|>",
    "lone surrogate": "\ud800 and \x00",
    "bytes that are no text": b"\xff\xfe\x00<tool_call>",
    "a million characters": "ö" * 1_000_000,
    "deep": "<tool_call>" + "[" * 5000 + "</tool_call>",
}


@pytest.mark.parametrize("name", WILD)
def test_any_text_is_a_turn(board, name):
    board.start(0, items()[0])
    reply = board.step({0: WILD[name]})[0]
    assert reply.text.startswith("error: ") and not reply.done
    assert reply.fault in (Fault.NO_ACTION, Fault.MALFORMED)


def test_of_a_long_turn_the_end_is_read(board):
    board.start(0, items()[0])
    thought = "<think>" + "so " * 3000 + "</think>"
    reply = board.step({0: thought + zoom(0, 0, 500, 500)})[0]
    assert reply.text == "image 1" and not reply.well_formed  # its beginning is cut off
    reply = board.step({0: answer("right") + " " * 4096})[0]
    assert reply.fault == Fault.NO_ACTION and not reply.done


def test_rows_that_wait_stand_still(board):
    """Two rows step alternately, a third alone afterwards: the same words and pixels, the same end."""
    said = [zoom(0, 0, 500, 500), call("flip", direction="horizontal", image_index=1), zoom(9, 9, 9, 9), answer("7")]
    first, second = items()[:2]
    board.start(0, first)
    board.start(1, second)
    mixed = [board.step({0: turn})[0] for turn in said[:2]]
    other = [board.step({1: said[0]})[1]]
    both = board.step({1: said[1], 0: said[2]})
    mixed, other = [*mixed, both[0]], [*other, both[1]]
    mixed.append(board.step({0: said[3]})[0])
    other += [board.step({1: turn})[1] for turn in said[2:]]
    for item, seen in ((first, mixed), (second, other)):
        board.start(2, item)
        alone = [board.step({2: turn})[2] for turn in said]
        assert [(r.text, r.done, r.correct, r.fault) for r in alone] == [
            (r.text, r.done, r.correct, r.fault) for r in seen
        ]
        for a, b in zip(alone[:2], seen[:2], strict=True):
            np.testing.assert_array_equal(a.image, b.image)


def test_a_row_without_an_episode_is_refused(board):
    board.start(0, items()[0])
    board.step({0: answer("left")})
    with pytest.raises(ValueError, match="no episode goes on in row 0; start one"):
        board.step({0: zoom(0, 0, 9, 9)})
    with pytest.raises(ValueError, match="no row 3; there are 3"):
        board.start(3, items()[0])


def test_the_state_holds_no_answer(board):
    """Every leaf is the same whatever the answer is."""
    leaves = []
    for truth in ("left", "a very particular answer"):
        board.start(0, Item("Where?", truth, [noise(0)]))
        board.step({0: zoom(0, 0, 500, 500)})
        state = next(state for shape, state in board._states.items() if shape == board._places[0][0])
        leaves.append(jax.tree.leaves((state, board.environment)))
    for one, other in zip(*leaves, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_several_images_of_several_sizes_side_by_side(board):
    """Grey on the small canvas, colour on the large one, two images in a third question; no row sees another's."""
    grey, colour = noise(5, 32, 32), noise(6, 40, 64, 3)
    board.start(0, Item("one", "a", [grey]))
    opening = board.start(1, Item("two", "b", [colour]))
    assert opening.images[0].shape == (16, 16, 3)
    opening = board.start(2, Item("three", "c", [grey, noise(7, 32, 32)]))
    assert len(opening.images) == 2
    turn = zoom(500, 500, 1000, 1000)
    replies = board.step({0: turn, 1: turn, 2: zoom(500, 500, 1000, 1000, image=1)})
    assert [replies[row].text for row in range(3)] == ["image 1", "image 1", "image 2"]
    np.testing.assert_array_equal(replies[0].image, grey[16:, 16:])
    np.testing.assert_array_equal(replies[2].image, noise(7, 32, 32)[16:, 16:])
    part = Image.fromarray(colour[20:, 32:]).resize((16, 16), Image.Resampling.BILINEAR)
    inner = (slice(2, -2),) * 2  # Pillow does not look beyond the box
    assert np.abs(replies[1].image.astype(int)[inner] - np.asarray(part)[inner]).max() <= 1
    assert board.step({0: zoom(0, 0, 9, 9, image=2)})[0].text == "error: no such image"


def ramp() -> np.ndarray:
    """uint8 [24, 30] without a sharp edge: enlarged and reduced again it is itself but for roundings."""
    return (np.arange(24)[:, None] * 5 + np.arange(30)[None] * 4).astype(np.uint8)


def reduced(image: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BOX)).astype(int)


def test_host_tools_are_asked_as_one_batch(board):
    """Each sees the image that its call names; the rows' replies are their own."""
    for row in range(3):
        board.start(row, Item("Where?", "left", [ramp()]))
    replies = board.step({row: call("whisper", word=word) for row, word in enumerate(("é<b>", "fail", "so"))})
    assert replies[0].text == "«é<b>» 256x205" and replies[0].image is None  # 30 x 24 at the smallest longer side
    assert (replies[1].text, replies[1].fault) == (ERRORS[Fault.UNSUITABLE_IMAGE], Fault.UNSUITABLE_IMAGE)
    assert sorted(word for word, _ in SEEN) == ["fail", "so", "é<b>"]
    for _, image in SEEN:
        assert np.abs(reduced(image, 24, 30) - ramp()[..., None])[1:-1, 1:-1].max() <= 2


def test_a_host_tool_sees_the_view_that_it_is_asked_about(board):
    """The lower right quarter, mirrored; then its negative: within two levels of those pixels."""
    board.start(0, Item("Where?", "left", [ramp()]))
    board.step({0: zoom(500, 500, 1000, 1000)})
    board.step({0: call("flip", direction="horizontal", image_index=1)})
    reply = board.step({0: call("whisper", word="mirror", image_index=2)})[0]
    assert reply.text == "«mirror» 256x205, answer now"  # three calls of three
    mirrored = ramp()[12:, 15:][:, ::-1]
    assert np.abs(reduced(SEEN[0][1], 12, 15)[..., 0] - mirrored)[1:-1, 1:-1].max() <= 2
    board.start(0, Item("Where?", "left", [ramp()]))
    board.step({0: call("negative")})
    board.step({0: call("whisper", word="dark", image_index=1)})
    assert np.abs(reduced(SEEN[1][1], 24, 30)[..., 0] - (255 - ramp().astype(int)))[1:-1, 1:-1].max() <= 2


def test_host_tools_are_asked_by_sound_calls_only(board):
    board.start(0, items()[0])
    assert board.step({0: call("whisper", word="x", image_index=4)})[0].text == "error: no such image"
    assert board.step({0: call("whisper")})[0].text == "error: missing argument"
    assert board.step({0: answer("left") + call("whisper", word="x")})[0].done
    assert SEEN == []


def test_nothing_compiles_again_for_other_turns(board):
    board.start(0, items()[0])
    board.step({0: "so"})
    sizes = module._advance._cache_size(), module._read._cache_size(), module._begin._cache_size()
    for row, item in enumerate(items(3)):
        board.start(row, item)
    board.step({0: zoom(1, 2, 300, 400), 1: call("whisper", word="w"), 2: "?"})
    board.step({1: answer("right")})
    assert sizes == (module._advance._cache_size(), module._read._cache_size(), module._begin._cache_size())


def test_without_tools_a_question_is_answered_at_once():
    bare = Episodes((), view_size=16, buckets=BUCKETS)
    assert bare.start(0, items()[0]).final and bare.tools == ()
    reply = bare.step({0: zoom(0, 0, 500, 500)})[0]
    assert reply.fault == Fault.NO_CALLS_LEFT and reply.truncated and not reply.correct
    bare.start(0, items()[0])
    assert bare.step({0: answer("left")})[0].correct


def test_tools_by_name_by_file_and_by_themselves(tmp_path):
    assert [tool.name for tool in choose_tools("flip, zoom_in")] == ["flip", "zoom_in"]
    assert choose_tools(None) == tuple(ALL_TOOLS.values()) and choose_tools([whisper]) == (whisper,)
    with pytest.raises(ValueError, match="no tool 'zoom'; there are zoom_in"):
        choose_tools(["zoom"])
    file = tmp_path / "mine.py"
    file.write_text(
        "from medvista_jax.tools.host.declare import host_tool\n"
        "@host_tool('Say hello.')\ndef hello():\n    return 'hello'\n"
    )
    assert list(load_tools(file)) == ["hello"]
    assert [tool.name for tool in choose_tools(f"zoom_in,{file},read_text")] == ["zoom_in", "hello", "read_text"]


def test_items_that_cannot_be_used_are_named():
    with pytest.raises(ValueError, match="item 'a': an image of float64; uint8 or uint16 is wanted"):
        pictures_of(Item("?", "x", [np.zeros((4, 4))], "a"))
    with pytest.raises(ValueError, match="item 'a' has no image"):
        pictures_of(Item("?", "x", [], "a"))
    with pytest.raises(ValueError, match="item 'a': an image of shape"):
        pictures_of(Item("?", "x", [np.zeros((4, 4, 2), np.uint8)], "a"))
    with pytest.raises(ValueError, match="has no letter and no digit"):
        find_items([Item("?", "?!", [noise(0)], "a")])
    with pytest.raises(ValueError, match="no questions at /nowhere"):
        find_items("/nowhere")


def test_items_of_files_are_items(tmp_path):
    Image.fromarray(noise(3)[..., 0]).save(tmp_path / "a.png")
    (tmp_path / "questions.jsonl").write_text('{"image": "a.png", "question": "Where?", "answer": "left"}\n')
    (item,) = find_items(tmp_path)
    np.testing.assert_array_equal(pictures_of(item)[0].pixels_YXC, noise(3))
    assert (item.question, item.answer) == ("Where?", "left")
