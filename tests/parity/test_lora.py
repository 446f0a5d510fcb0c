"""Adapters beside transformers: names as its modules have them, ``W + (alpha / r) B A`` in torch, merged folders."""

from __future__ import annotations

import copy
import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from medvista_jax import models
from medvista_jax.models.lora import LoRAConfig, init_lora, merge, with_lora
from medvista_jax.models.lora_files import hub_modules, load_adapters, save_adapters
from medvista_jax.models.names import flatten, nest
from medvista_jax.models.tensor_files import TensorFiles
from tests.parity import families
from tests.parity.reference import Pair, gap, our_logits, their_logits

GRIDS = [[3, (4, 6), 5], [2, (2, 4), 1, (4, 4), 3]]
CASES = {
    "qwen3_vl": (families.qwen3_vl, families.qwen_inputs, GRIDS),
    "qwen2_5_vl": (families.qwen2_5_vl, families.qwen_inputs, GRIDS),
    "internvl": (families.internvl, families.internvl_inputs, [[3, (30, 50), 5], [2, (16, 16), 1]]),
}
"""Model, maker of inputs, rows: parts of text and images, by patches (Qwen) or pixels."""
EVERYTHING = LoRAConfig(rank=3, alpha=5.0, modules=".*")
TOLERANCE = 1e-5
"""Of the largest logit. A scale of alpha in place of alpha / rank moves them by more than 0.01."""


@pytest.fixture(params=CASES)
def case(request):
    make, inputs, rows = CASES[request.param]
    pair = make()
    return pair, inputs(pair, rows)


def adapted(pair: Pair, config: LoRAConfig = EVERYTHING):
    """The port with adapters that do something, and its parameters."""
    model, rng = with_lora(pair.model, config), np.random.default_rng(0)
    flat = flatten(init_lora(model, pair.params, jax.random.key(0)))
    noise = {path: 0.2 * rng.standard_normal(x.shape) for path, x in flat.items() if path.endswith("lora_b")}
    return model, nest(flat | {path: jnp.asarray(x, jnp.float32) for path, x in noise.items()})


def added(pair: Pair, tensors: dict[str, np.ndarray], scale: float) -> Pair:
    """transformers' model with ``scale · B A`` added to the weight of each module that the names of PEFT give."""
    theirs = copy.deepcopy(pair.theirs)
    modules = dict(theirs.named_modules())
    with torch.no_grad():
        for name, a in tensors.items():
            if match := re.fullmatch(r"base_model\.model\.(.*)\.lora_A\.weight", name):
                b, weight = tensors[name.replace("lora_A", "lora_B")], modules[match[1]].weight
                delta = scale * b.reshape(b.shape[:2]) @ a.reshape(len(a), -1)
                weight += torch.from_numpy(delta.reshape(weight.shape))
    return dataclasses.replace(pair, theirs=theirs)


def test_saved_adapters_in_transformers(case, tmp_path):
    """Every linear module and convolution under the name that it has in memory, where PEFT looks for it."""
    pair, inputs = case
    model, params = adapted(pair)
    save_adapters(model, params, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    named = {re.fullmatch(r"base_model\.model\.(.*)\.lora_[AB]\.weight", name)[1] for name in tensors}
    layers = torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d
    assert named == {name for name, module in pair.theirs.named_modules() if isinstance(module, layers)} - {"lm_head"}
    expected = their_logits(added(pair, tensors, 5 / 3), inputs)
    found = our_logits(pair, inputs, params, model)
    assert gap(found, expected, inputs["attention_mask"]) < TOLERANCE
    for wrong in (5.0, 0.0):
        assert gap(found, their_logits(added(pair, tensors, wrong), inputs), inputs["attention_mask"]) > 0.01


@pytest.mark.parametrize(
    "modules", [LoRAConfig.modules, r"decoder/layer_1/.*", r"(vision|connector)/.*", r".*/(up|down)"]
)
def test_target_modules_mean_what_was_adapted(case, tmp_path, modules):
    """As PEFT reads a list: modules that are named so or end so."""
    pair, _ = case
    model, params = adapted(pair, LoRAConfig(2, 4.0, modules))
    save_adapters(model, params, tmp_path)
    targets = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    meant = {n for n, _ in pair.theirs.named_modules() if any(n == t or n.endswith("." + t) for t in targets)}
    known = hub_modules(pair.model)
    assert meant == {known[path].names[0] for path in model.adapters.modules}
    again, _ = load_adapters(tmp_path, pair.model, pair.params)
    assert again == model


def test_names_on_disk_are_read_too(case, tmp_path):
    pair, _ = case
    model, params = adapted(pair)
    save_adapters(model, params, tmp_path)
    with TensorFiles(pair.folder) as files:
        on_disk = {name.removesuffix(".weight") for name in files.tensors}
    disk_of = {m.names[0]: next(n for n in m.names if n in on_disk) for m in hub_modules(pair.model).values()}
    renamed = {}
    for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items():
        module, half = re.fullmatch(r"base_model\.model\.(.*)\.(lora_[AB]\.weight)", name).groups()
        renamed[f"base_model.model.{disk_of[module]}.{half}"] = tensor
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter_config.json").read_text()) | {"target_modules": "all-linear"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    again, loaded = load_adapters(tmp_path, pair.model, pair.params)
    assert again == model and set(flatten(loaded)) == set(flatten(params))
    assert all(np.array_equal(leaf, flatten(params)[path]) for path, leaf in flatten(loaded).items())


def test_merged_folder_opens_in_transformers(case, tmp_path):
    """Load, adapt, merge, save; transformers gives the adapted model's logits. Unmerged, nothing is saved."""
    pair, inputs = case
    model, params = adapted(pair)
    with pytest.raises(ValueError, match="has adapters, which a hub folder cannot hold: merge them first"):
        models.save(model, params, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    models.save(*merge(model, params), tmp_path / "merged")
    theirs, report = type(pair.theirs).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values()), report
    expected = their_logits(dataclasses.replace(pair, theirs=theirs.eval()), inputs)
    assert gap(our_logits(pair, inputs, params, model), expected, inputs["attention_mask"]) < TOLERANCE
    assert gap(our_logits(pair, inputs), expected, inputs["attention_mask"]) > 0.01
    save_adapters(model, params, tmp_path / "adapters")
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(pair.folder)
