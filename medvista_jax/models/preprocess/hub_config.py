"""What a hub folder says about its image processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def read_image_config(folder: str | Path, processors: tuple[str, ...] | None = None) -> tuple[dict[str, Any], Path]:
    """The settings of a folder's image processor, and the file they stand in.

    Newer checkpoints keep them as ``image_processor`` in ``processor_config.json``; it wins, as in transformers, over
    ``preprocessor_config.json``. Keys that are null count as absent.

    Args:
      processors: class names that may stand there, without the endings Fast and Pil; any when left out.

    Raises:
      FileNotFoundError: when neither file holds settings; names both.
      ValueError: when a file is no JSON object, or is for another processor.
    """
    folder = Path(folder)
    path, found = folder / "processor_config.json", None
    if path.is_file():
        found = _read(path).get("image_processor")
    if found is None:
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} says nothing about image preprocessing: there is no preprocessor_config.json, and no "
                "processor_config.json with an entry image_processor. Copy them from where the weights come from"
            )
        found = _read(path)
    named = found.get("image_processor_type")
    if (
        named is not None
        and processors is not None
        and named.removesuffix("Fast").removesuffix("Pil") not in processors
    ):
        raise ValueError(f"{path} is for {named}; this family takes {' or '.join(processors)}")
    return {key: value for key, value in found.items() if value is not None}, path


def levels_of(folder: str | Path, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[tuple, tuple]:
    """:func:`mean_and_std` of a folder; the arguments where it says nothing about image preprocessing.

    Raises:
      ValueError: a file that is no JSON object of settings.
    """
    try:
        settings, _ = read_image_config(folder)
    except FileNotFoundError:
        return mean, std
    return mean_and_std(settings, mean, std)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object of settings")
    return content


def mean_and_std(settings: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[tuple, tuple]:
    """Mean and standard deviation for :func:`medvista_jax.models.images.normalise`; the arguments are the defaults.

    Where the processor does not rescale, rescales by another factor than 1/255 or does not normalise, the numbers
    that lead to its results are returned.
    """
    three = lambda value: tuple(map(float, value)) if isinstance(value, list) else (float(value),) * 3  # noqa: E731
    mean = three(settings["image_mean"]) if "image_mean" in settings else mean
    std = three(settings["image_std"]) if "image_std" in settings else std
    if not settings.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    if not settings.get("do_rescale", True):
        unit = 255.0
    else:
        unit = 255.0 * settings.get("rescale_factor", 1 / 255)
    if abs(unit - 1.0) < 1e-6:  # 1/255 written with some digits
        return mean, std
    return tuple(value / unit for value in mean), tuple(value / unit for value in std)
