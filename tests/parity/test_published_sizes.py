"""The published sizes on paper: every tensor that transformers' class has is one of our leaves, with its shape."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from medvista_jax.models.families import FAMILIES, read_config
from medvista_jax.models.names import flatten, shape_on_disk
from medvista_jax.runtime.aot.plans import MODELS
from tests.parity.published import CONFIGS

PARAMETERS = {
    "Qwen2.5-VL-3B": 3.75e9,
    "Qwen2.5-VL-7B": 8.29e9,
    "Qwen3-VL-2B": 2.13e9,
    "Qwen3-VL-4B": 4.44e9,
    "Qwen3-VL-8B": 8.77e9,
    "InternVL3-1B": 0.938e9,
    "InternVL3-2B": 2.09e9,
    "InternVL3-8B": 7.94e9,
    "InternVL3-14B": 15.1e9,
}
"""As the model cards have it."""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_tensor_has_its_place(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        theirs = getattr(transformers, config.architectures[0])(config)
    family = FAMILIES[config.model_type]
    ours = read_config(family, tmp_path)
    leaves = flatten(family.model_class()(ours).abstract_params())
    table = {entry.path: entry for entry in family.entries(ours)}
    assert set(table) == set(leaves)
    shapes = {n: tuple(p.shape) for n, p in theirs.named_parameters()}
    mine = {}
    for path, entry in table.items():
        names = [n for n in (entry.hub, *entry.aliases) if n in shapes]
        assert len(names) == 1, f"{path}: {entry.hub} {entry.aliases}"
        mine[names[0]] = shape_on_disk(entry, leaves[path].shape)
    assert mine == shapes
    assert sum(torch.Size(s).numel() for s in shapes.values()) == pytest.approx(PARAMETERS[name], rel=0.005)


@pytest.mark.parametrize(("name", "plan"), [("Qwen3-VL-8B", "qwen3-vl-8b"), ("InternVL3-8B", "internvl3-8b")])
def test_plans_compile_the_published_configuration(name, plan, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    assert MODELS[plan]().config == read_config(FAMILIES[CONFIGS[name]["model_type"]], tmp_path)
