"""Measurements through windows against the same on the whole canvas, and windows against slices by numpy.

Equal to the last bit: masks add up the same two numbers a pixel, sums are of whole numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import measure

from medvista_jax.tools import window
from medvista_jax.tools.components import _count_by_pixels, _count_by_runs
from medvista_jax.tools.count_objects import AUTOMATIC, count_objects
from medvista_jax.tools.geometry import inverse
from medvista_jax.tools.region import WHOLE, Region, in_region, percentiles
from medvista_jax.tools.region_statistics import region_statistics
from medvista_jax.tools.segment_region import segment_region
from medvista_jax.tools.window import in_growing_window, in_window, window_sides
from tests.tools import scene

KINDS = ("grey", "ct", "colour")


def random_box(rng: np.random.Generator) -> list[int]:
    """Of any size, most of them small; edges often on a pixel's centre."""
    low, high = rng.integers(0, 950, 2), rng.integers(1, 51, 2) ** 2 // 2
    return [int(v) for v in (*low, *np.minimum(low + high, 1000))]


def whole_canvas(monkeypatch) -> None:
    monkeypatch.setattr(window, "FITTED", (8,))
    monkeypatch.setattr(window, "GROWN", (8,))


def compiled(tool):
    """A program of its own, so that a change of windows is traced anew."""
    return jax.jit(lambda arguments_A, seen: tool.kernel(arguments_A, seen))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tool", [region_statistics, count_objects, segment_region], ids=lambda tool: tool.name)
def test_no_result_depends_on_the_window(tool, kind, monkeypatch):
    rng, calls = np.random.default_rng(5), []
    for at in range(12 * len(scene.VIEWS)):
        box, level = random_box(rng), int(rng.choice([AUTOMATIC, 60, 120]))
        more = {"region_statistics": box, "count_objects": [*box, level, at % 2, 1 + at % 3]}
        more["segment_region"] = [*rng.integers(0, 1001, 2), rng.integers(0, 800 if kind == "ct" else 50)]
        calls.append(jnp.array([*more[tool.name], at % len(scene.VIEWS)], jnp.int32))
    through, seen = compiled(tool), scene.sight(kind)
    found = [jax.tree.map(np.asarray, through(call, seen)) for call in calls]
    assert through._cache_size() == 1
    whole_canvas(monkeypatch)
    alone = compiled(tool)
    for call, outcome in zip(calls, found, strict=True):
        expected = alone(call, seen)
        assert outcome.fault == expected.fault and outcome.text == expected.text
        np.testing.assert_array_equal(outcome.numbers_N, expected.numbers_N, err_msg=f"{call}")


@pytest.mark.parametrize("kind", KINDS)
def test_percentiles_do_not_depend_on_the_window(kind, monkeypatch):
    seen, ranks = scene.sight(kind), jnp.array([3, 50, 98])

    def of_view():
        return jax.jit(lambda view: percentiles(seen.replace(view=view), jnp.int32(0), ranks, jnp.array(True)))

    views = [jax.tree.map(lambda leaf, at=at: leaf[at], seen.views.view) for at in range(len(scene.VIEWS))]
    through = of_view()
    found = [np.asarray(through(view)) for view in views]
    whole_canvas(monkeypatch)
    alone = of_view()
    for view, values in zip(views, found, strict=True):
        np.testing.assert_array_equal(values, alone(view))


def test_a_window_is_the_smallest_that_holds_the_bounds_and_shows_the_pixels_there():
    one, stored = scene.originals("grey"), scene.pixels("grey")[..., 0]
    sides = window_sides(scene.CANVAS, window.FITTED)
    assert sides == [(5, 6), (10, 12), (15, 18), (20, 24), (40, 48)]
    # What a window shows lies in the corner of a canvas, beside its shape: results may not depend on it, tests do.
    pad = lambda grey_YX: jnp.pad(grey_YX, [(0, c - s) for c, s in zip(scene.CANVAS, grey_YX.shape, strict=True)])  # noqa: E731

    def read(part):
        return pad(part.grey_YX), part.corner_2, jnp.array(part.grey_YX.shape)

    run = jax.jit(lambda source, bounds_4: in_window(one, source, bounds_4, read))
    asked = ((0, (3, 4, 9, 9)), (1, (3, 4, 10, 9)), (1, (40, 35, 48, 40)), (0, (0, 0, 25, 2)), (0, (9, 9, 9, 9)))
    for source, bounds in asked:
        grey, (x, y), (rows, columns) = map(np.asarray, run(source, jnp.array(bounds)))
        assert x <= bounds[0] and y <= bounds[1] and x + columns >= bounds[2] and y + rows >= bounds[3]
        needs = (bounds[3] - bounds[1], bounds[2] - bounds[0])
        assert (rows, columns) == next(s for s in sides if s[0] >= needs[0] and s[1] >= needs[1])
        np.testing.assert_array_equal(grey[:rows, :columns], stored[source, y : y + rows, x : x + columns])


@pytest.mark.parametrize("view", scene.VIEWS)
def test_the_window_holds_every_pixel_of_the_box(view):
    """The count within the window against the count of float64 geometry over the image."""
    seen = scene.sight("grey")
    named = seen.replace(view=jax.tree.map(lambda leaf: leaf[scene.VIEWS.index(view)], seen.views.view))
    count = jax.jit(lambda box_4: in_region(named, box_4, lambda part: jnp.sum(part.within_YX)))
    rng = np.random.default_rng(1)
    for _ in range(30):
        box = random_box(rng)
        _, within = scene.within(view, box)
        # A centre on the very edge of a box may fall on either side.
        assert abs(int(count(jnp.array(box))) - within.sum()) <= near_edge(view, box)


def near_edge(view: str, box: list[int]) -> int:
    """How many pixels of the image have their centre within 1e-3 of an edge of the box, in thousandths."""
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[scene.VIEWS.index(view)], scene.sight("grey").views.view)
    panel = int(one.seam[:2] @ ((box[0] + box[2]) / 2000, (box[1] + box[3]) / 2000) >= one.seam[2] and one.blend == 1)
    m = np.asarray(inverse(one.affine[panel]), float)
    y, x = np.mgrid[: scene.CANVAS[0], : scene.CANVAS[1]] + 0.5
    u, v = (m[k, 0] * x + m[k, 1] * y + m[k, 2] for k in range(2))
    apart = [np.abs(at * 1000 - edge) for at, edge in ((u, box[0]), (u, box[2]), (v, box[1]), (v, box[3]))]
    return int(np.any(np.array(apart) < 1e-3, axis=0).sum())


def test_a_growing_window_stops_where_it_is_enough_or_at_the_canvas():
    one = scene.originals("grey")

    def read(least: int):
        def inner(part):
            return jnp.array(part.grey_YX.shape), jnp.array(part.grey_YX.size >= least)

        return inner

    seed = jnp.array([47, 0])
    for least, sides in ((0, (10, 12)), (121, (40, 48)), (1_000_000, (40, 48))):
        assert tuple(map(int, in_growing_window(one, jnp.int32(0), seed, read(least)))) == sides


def test_rows_abreast_are_as_one_after_the_other():
    """Under vmap a switch computes all of its branches."""
    seen = scene.sight("ct")
    boxes = jnp.array([*scene.BOXES, WHOLE])

    def mean(box_4):
        def read(part: Region):
            return jnp.sum(jnp.where(part.within_YX, part.grey_YX, 0.0).astype(jnp.int32))

        return in_region(seen, box_4, read)

    np.testing.assert_array_equal(jax.jit(jax.vmap(mean))(boxes), jax.lax.map(mean, boxes))


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3, 0.5, 0.7, 0.97, 1.0])
@pytest.mark.parametrize("shape", [(64, 64), (37, 45), (3, 90)])
def test_runs_and_pixels_count_the_components_of_skimage(shape, share):
    """Of blocks, which have few runs, and of noise, which has too many."""
    rng = np.random.default_rng(2)
    fine = rng.random(shape) < share
    coarse = rng.random((shape[0] // 3 + 1, shape[1] // 9 + 1)) < share
    coarse = coarse.repeat(3, axis=0).repeat(9, axis=1)[: shape[0], : shape[1]]
    for mask in (fine, coarse):
        area = np.bincount(measure.label(mask, connectivity=1).ravel())[1:]
        for smallest in (1, 2, 30):
            large = area[area >= smallest]
            for count in (_count_by_runs, _count_by_pixels):
                found = jax.jit(count)(jnp.asarray(mask), jnp.int32(smallest))
                assert found.tolist() == [len(large), large.sum()]
