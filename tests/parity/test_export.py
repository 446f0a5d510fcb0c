"""Runs of hub families, exported: transformers opens the folder and gives our logits, ours reads it to the bit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.numpy import save_file

from medvista_jax import models
from medvista_jax.evaluation.export import export
from medvista_jax.evaluation.run_record import PolicyRecord
from medvista_jax.models.lora import LoRAConfig, init_lora, merge, with_lora
from medvista_jax.models.lora_files import save_adapters
from medvista_jax.models.names import flatten, nest
from medvista_jax.text.hub_chat import load_chat
from tests.evaluation.made_run import COUNTS, made_record, write_results
from tests.parity import families
from tests.parity.reference import Pair, make_pair, our_logits, tensors
from tests.text.hub_folders import INTERNVL3, QWEN2_5_VL, QWEN3_VL, write_folder

LORA = LoRAConfig(rank=3, alpha=5.0)
TOLERANCE = 1e-5
"""Of the largest logit, float32. Unmerged adapters move it by more than 0.01."""

KINDS = {
    "qwen3_vl": ("Qwen3VL", "qwen3", QWEN3_VL, families.QWEN3_TEXT, families.QWEN3_VISION, "<|image_pad|>"),
    "qwen2_5_vl": ("Qwen2_5_VL", "qwen2.5", QWEN2_5_VL, families.QWEN25_TEXT, families.QWEN25_VISION, "<|image_pad|>"),
    "internvl": ("InternVL", "internvl", INTERNVL3, families.INTERNVL_TEXT, families.INTERNVL_VISION, "<IMG_CONTEXT>"),
}
QWEN_IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 64, "longest_edge": 4096},
    "image_mean": [0.5, 0.45, 0.4],
    "image_std": [0.3, 0.25, 0.2],
}
INTERNVL_IMAGES = {
    "image_processor_type": "GotOcr2ImageProcessor",
    "size": {"height": 16, "width": 16},
    "crop_to_patches": False,
    **families.IMAGENET,
}


@dataclasses.dataclass(frozen=True)
class Base:
    """A hub folder that a run starts from, small and random, with tokenizer, template and processor."""

    kind: str
    folder: Path
    pair: Pair


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory) -> Base:
    name, vocabulary, template, text, vision, image = KINDS[request.param]
    folder = write_folder(tmp_path_factory.mktemp("base") / "model", vocabulary, template)
    ids = {one["content"]: one["id"] for one in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]}
    named = {"video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>"}
    named |= {"vision_end_token_id": "<|vision_end|>"}
    special = {"image_token_id": ids[image]}
    if request.param == "internvl":
        special |= {"image_seq_length": 4}
    else:
        special |= {key: ids[symbol] for key, symbol in named.items()}
    config = getattr(transformers, f"{name}Config")(
        text_config=text | {"vocab_size": max(ids.values()) + 1}, vision_config=vision, **special
    )
    pair = make_pair(config, getattr(transformers, f"{name}ForConditionalGeneration"), models.load)
    for path in pair.folder.iterdir():
        if path.name != "generation_config.json":
            shutil.copyfile(path, folder / path.name)
    images = INTERNVL_IMAGES if request.param == "internvl" else QWEN_IMAGES
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    model, params = models.load(folder)
    return Base(request.param, folder, dataclasses.replace(pair, model=model, params=params, folder=folder))


def trained(base: Base, lora: bool):
    """A model after a training that changed the connector and either the adapters or a layer of the decoder."""
    rng = np.random.default_rng(0)
    model, params = base.pair.model, base.pair.params
    if lora:
        model = with_lora(model, LORA)
        params = init_lora(model, params, jax.random.key(0))
    flat = flatten(params)
    moved = [
        path for path in flat if path.startswith("connector/") or (path.endswith("lora_b") if lora else "_1/" in path)
    ]
    fresh = {path: flat[path] + jnp.asarray(0.2 * rng.standard_normal(flat[path].shape), jnp.float32) for path in moved}
    if lora:
        fresh |= {path: leaf for path, leaf in flat.items() if path.endswith("lora_a")}
    return model, nest(flat | fresh), fresh


def run_of(start: Base, folder: Path, **weights) -> Path:
    """A run's folder with one policy."""
    folder.mkdir(exist_ok=True)
    policy = PolicyRecord(conditions=("sft_grpo",), stages=("sft", "grpo"), **weights)
    write_results(folder, made_record(family=start.kind, policies={"grpo": policy}, title=f"made-{start.kind}"))
    return folder


def question(base: Base, folder: Path) -> dict[str, np.ndarray]:
    """A question about an image, prepared by transformers with nothing but the files of a folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = np.random.default_rng(1).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    inputs = processor(Image.fromarray(pixels), return_tensors="np")
    if base.kind == "internvl":
        count = 4
    else:
        count = int(inputs["image_grid_thw"].prod()) // 4
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where is it?"}]}
    text = tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
    symbol = tokenizer.convert_ids_to_tokens(base.pair.model.config.image_token)
    assert text.count(symbol) == 1
    ids = tokenizer(text.replace(symbol, symbol * count), return_tensors="np")
    wanted = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    return {name: np.asarray(value) for name, value in {**ids, **inputs}.items() if name in wanted}


def their_logits(base: Base, folder: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    model, report = transformers.AutoModelForImageTextToText.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report.values()), report
    assert model.dtype == torch.float32
    with torch.no_grad():
        return model.eval()(**tensors(dataclasses.replace(base.pair, theirs=model), inputs)).logits.numpy()


WAYS = ("full file", "trained leaves", "lora leaves", "adapters")


@pytest.mark.parametrize("way", WAYS)
def test_transformers_gives_our_logits(base, tmp_path, way):
    lora = way in ("lora leaves", "adapters")
    model, params, fresh = trained(base, lora)
    run = tmp_path / "run"
    run.mkdir()
    whole = flatten(params)
    if way == "adapters":  # beside a hub folder that holds the connector
        plain = {path: leaf for path, leaf in whole.items() if "_lora_" not in path}
        models.save(base.pair.model, nest(plain), run / "model")
        save_adapters(model, params, run / "adapters")
        run_of(base, run, path="adapters", base="model")
    else:
        leaves = whole if way == "full file" else fresh
        save_file({path: np.asarray(leaf) for path, leaf in leaves.items()}, run / "grpo.safetensors")
        run_of(base, run, path="grpo.safetensors", base=str(base.folder), lora=LORA if lora else None)
    out = tmp_path / "out"
    written = export(run, out, shard_bytes=20_000)
    assert bool(written.merged) == lora and (out / "model.safetensors.index.json").exists()

    inputs = question(base, out)
    ours, theirs = our_logits(base.pair, inputs, params, model), their_logits(base, out, inputs)
    largest = np.abs(theirs).max()
    assert np.abs(ours - theirs).max() < TOLERANCE * largest
    assert np.abs(our_logits(base.pair, inputs) - theirs).max() > 0.01 * largest  # the base's own

    again, loaded = models.load(out)
    merged = flatten(merge(model, params)[1] if lora else params)
    found = flatten(loaded)
    assert again == base.pair.model and set(found) == set(merged)
    for path, leaf in merged.items():
        assert np.asarray(leaf).tobytes() == np.asarray(found[path]).tobytes(), path


def test_the_files_around_the_weights(base, tmp_path):
    run = run_of(base, tmp_path / "run", path="grpo.safetensors", base=str(base.folder))
    save_file({path: np.asarray(x) for path, x in flatten(base.pair.params).items()}, run / "grpo.safetensors")
    out = tmp_path / "out"
    written = export(run, out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json"):
        assert (out / name).read_bytes() == (base.folder / name).read_bytes(), name
    ends = transformers.GenerationConfig.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_ids_to_tokens([ends.eos_token_id, ends.pad_token_id]) == ["<|im_end|>", "<|endoftext|>"]
    assert any("generation_config.json" in line for line in written.files)
    chat, before = load_chat(out), load_chat(base.folder)
    assert chat.prompt("Where?", [4]) == before.prompt("Where?", [4])
    card = ModelCard.load(out / "README.md")
    right, asked = COUNTS["sft_grpo", 0]
    assert card.data.eval_results[0].metric_value == right / asked
    assert "AutoModelForImageTextToText" in card.text and str(base.folder) not in card.content


def test_a_moved_base_and_a_wrong_one(base, tmp_path):
    run = run_of(base, tmp_path / "run", path="grpo.safetensors", base=str(tmp_path / "gone"))
    save_file({path: np.asarray(x) for path, x in flatten(base.pair.params).items()}, run / "grpo.safetensors")
    with pytest.raises(FileNotFoundError, match="name it with --base"):
        export(run, tmp_path / "out")
    export(run, tmp_path / "out", base=base.folder)
    save_file({"decoder/strange/kernel": np.zeros(3, np.float32)}, run / "grpo.safetensors")
    with pytest.raises(ValueError, match="has leaves that .* lacks: decoder/strange/kernel"):
        export(run, tmp_path / "out2", base=base.folder)
    save_file({path: np.asarray(x) for path, x in flatten(base.pair.params).items()}, run / "grpo.safetensors")
    bare = tmp_path / "bare"
    shutil.copytree(base.folder, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer.json"):
        export(run, tmp_path / "out2", base=bare)
    assert not (tmp_path / "out2").exists()
