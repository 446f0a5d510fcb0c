import dataclasses

import numpy as np
import pytest
from PIL import Image

from medvista_jax.evaluation.plots import PANELS, Panel, _lines, _smooth, draw_curves


def test_panels_follow_the_records(tmp_path):
    records = [{"stage": "sft", "step": k, "wall_seconds": k, "loss": 1 / (k + 1)} for k in range(60)]
    records += [
        {
            "stage": "grpo",
            "step": k,
            "reward": k,
            "reward_format": 1,
            "entropy": float("nan"),
            "logprob_mismatch": 0.0,
        }
        for k in range(5)
    ]
    path = tmp_path / "run" / "curves.png"
    assert draw_curves(records, path) == 4
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 1000
        assert np.asarray(picture.convert("L")).std() > 5


def test_a_band_is_shaded_between_its_edges(tmp_path):
    """As high as its edges are apart, on the scale of a full percent axis."""
    panel = Panel("s", "p", "u", ("a",), fraction=True, band=True)

    def drawn(panel: Panel, low: float, high: float) -> np.ndarray:
        values = {"a": 0.5, "a_low": low, "a_high": high}
        draw_curves([{"stage": "s", "step": k, **values} for k in (1, 2, 3)], tmp_path / "c.png", (panel,))
        return np.asarray(Image.open(tmp_path / "c.png").convert("RGB"), int)

    wide, narrow = drawn(panel, 0.2, 0.9), drawn(panel, 0.4, 0.6)
    bare = drawn(dataclasses.replace(panel, band=False), 0.2, 0.9)
    heights = [(np.abs(image - bare).max(axis=-1) > 8).any(axis=1).sum() for image in (wide, narrow)]
    assert heights[0] / heights[1] == pytest.approx(0.7 / 0.2, rel=0.1)


def test_nothing_to_draw_is_no_error(tmp_path):
    assert draw_curves([], tmp_path / "curves.png") == 0
    assert (tmp_path / "curves.png").exists()


def test_seeds_of_a_step_are_averaged_and_stars_expand():
    (panel,) = [p for p in PANELS if p.title == "GRPO: reward and its terms"]
    records = [
        {"stage": "grpo", "step": 1, "reward": 2.0, "reward_format": 1.0},
        {"stage": "grpo", "step": 0, "reward": 1.0, "reward_format": -1.0},
        {"stage": "grpo", "step": 1, "reward": 4.0, "reward_format": 1.0},
        {"stage": "sft", "step": 0, "reward": 99.0},
    ]
    lines = _lines(records, panel)
    assert list(lines) == ["reward", "reward_format"]
    assert lines["reward"][0].tolist() == [0, 1] and lines["reward"][1].tolist() == [1.0, 3.0]


def test_smoothing_keeps_a_constant_and_a_gap():
    y = np.full(50, 3.0)
    y[7] = np.nan
    smooth = _smooth(y, 5)
    assert np.isnan(smooth[7]) and np.allclose(np.delete(smooth, 7), 3.0)
