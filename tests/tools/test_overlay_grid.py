"""``overlay_grid``: where its lines are, and that its labels can be read."""

from __future__ import annotations

import numpy as np
import pytest

from medvista_jax.core.types import Fault
from medvista_jax.tools.registry import ALL_TOOLS
from tests.tools import looks

TOOLS = tuple(ALL_TOOLS[name] for name in ("zoom_in", "rotate", "flip", "invert", "overlay_grid"))
LARGE = (128, 160)

READ = {
    "250": """
        .###..#####..###.
        #...#.#.....#...#
        ....#.####..#..##
        ..##......#.#.#.#
        .#........#.##..#
        #.....#...#.#...#
        #####..###...###.""",
    "750": """
        #####.#####..###.
        ....#.#.....#...#
        ...#..####..#..##
        ..#.......#.#.#.#
        ..#.......#.##..#
        ..#...#...#.#...#
        ..#....###...###.""",
}
"""Labels, dot by dot."""


def dots(label: str) -> np.ndarray:
    return np.array([[c == "#" for c in line.strip()] for line in READ[label].strip().split("\n")])


def play_with(image: np.ndarray, size=looks.SIZE) -> looks.Episode:
    return looks.Episode(looks.environment(*TOOLS, size=size), looks.bank([image]))


@pytest.mark.parametrize("cells", [2, 3, 4, 7, 10, 20])
def test_lines_lie_in_the_pixels_of_their_coordinates(cells):
    """Every ``k / cells``, by integers; nothing else changes. A small view has no labels."""
    image = np.full((56, 64, 1), 90, np.uint8)
    play = play_with(image)
    shown = play.pixels(play.call("overlay_grid", cells=cells))[..., 0]
    rows, columns = looks.SIZE
    expected = np.full(looks.SIZE, 90)
    expected[[k * rows // cells for k in range(1, cells)]] = 255
    expected[:, [k * columns // cells for k in range(1, cells)]] = 255
    np.testing.assert_array_equal(shown, expected)


def test_lines_are_black_on_bright_and_white_on_dark():
    image = np.full((*looks.SIZE, 3), 200, np.uint8)
    image[:, :20] = (10, 60, 20)
    play = play_with(image)
    shown = play.pixels(play.call("overlay_grid", cells=4))
    assert (shown[24, :16] == 255).all() and (shown[24, 24:] == 0).all()
    assert (shown[5:10, 10] == 255).all() and (shown[5:10, 30] == 0).all()
    assert (shown[5:10, 12:18] == (10, 60, 20)).all()


def test_labels_of_large_views_can_be_read():
    """To the dot: behind the upright lines at the top, below the level lines at the left, white on black."""
    play = play_with(np.full((56, 64, 1), 90, np.uint8), LARGE)
    shown = play.pixels(play.call("overlay_grid", cells=4))[..., 0]
    for label, share in (("250", 0.25), ("750", 0.75)):
        x, y = int(share * LARGE[1]) + 1, int(share * LARGE[0]) + 1
        for plate in (shown[:9, x : x + 19], shown[y : y + 9, :19]):
            np.testing.assert_array_equal(plate[1:8, 1:18] == 255, dots(label))
            assert set(np.unique(plate)) == {0, 255} and (plate[[0, 8]] == 0).all() and (plate[:, [0, 18]] == 0).all()


def test_where_a_cell_has_no_room_there_are_no_labels():
    play = play_with(np.full((56, 64, 1), 90, np.uint8), LARGE)
    shown = play.pixels(play.call("overlay_grid", cells=20))[..., 0]
    assert (shown == 0).sum() == 0


def test_coordinates_are_those_of_the_view_that_is_shown():
    """A zoom into a view with a grid has a grid of its own; a turned one has upright lines."""
    image = looks.noise(56, 64, seed=1)
    play = play_with(image, LARGE)
    grid = play.call("overlay_grid", cells=5)
    box = [120, 340, 700, 810]
    inside = play.pixels(play.call("zoom_in", bbox_2d=box, image_index=grid))
    zoomed = play.call("zoom_in", bbox_2d=box)
    np.testing.assert_array_equal(inside, play.pixels(play.call("overlay_grid", cells=5, image_index=zoomed)))
    turned = play.pixels(play.call("rotate", degrees=30, image_index=grid))[..., 0]
    assert np.isin(turned[LARGE[0] // 5, 20:], (0, 255)).all()


def test_a_line_drawn_before_the_negative_is_inverted_and_one_drawn_after_is_not():
    play = play_with(np.full((56, 64, 1), 200, np.uint8))
    grid, negative = play.call("overlay_grid"), play.call("invert")
    before = play.pixels(play.call("invert", image_index=grid))[24]
    after = play.pixels(play.call("overlay_grid", image_index=negative))[24]
    assert (before == 255).all() and (after == 255).all()  # black on 200, inverted; white on 55
    assert (play.pixels(grid)[24] == 0).all()


@pytest.mark.parametrize("cells", [1, 21])
def test_bad_arguments_are_faults(cells):
    play = play_with(looks.noise(56, 64))
    assert play.attempt("overlay_grid", cells=cells)[0] == Fault.OUT_OF_RANGE
    assert "image 1</tool_response>" in play.attempt("overlay_grid")[1]


def test_no_number_of_cells_compiles_again():
    play = play_with(looks.noise(56, 64))
    play.pixels(play.call("overlay_grid"))
    before = looks.step._cache_size(), looks.render._cache_size()
    for cells in (2, 9, 20):
        play.pixels(play.call("overlay_grid", cells=cells))
    assert (looks.step._cache_size(), looks.render._cache_size()) == before
