"""Folders written by transformers are read, and ours are read by transformers: values, names, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from medvista_jax import models
from medvista_jax.models.families import FAMILIES
from medvista_jax.models.names import flatten, nest, to_leaf
from medvista_jax.models.tensor_files import TensorFiles
from tests.checkpoints import TINY

KINDS = [kind for kind in TINY if FAMILIES[kind].transformers]


def reference(kind, tied, seed=0):
    """transformers' model of the tiny configuration, every parameter random."""
    torch.manual_seed(seed)
    settings = {key: value for key, value in TINY[kind].items() if key not in ("architectures", "model_type", "dtype")}
    config = transformers.AutoConfig.for_model(kind, **settings | {"tie_word_embeddings": tied})
    model = getattr(transformers, FAMILIES[kind].architectures[0])(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return model


def reopened(kind, folder, **options):
    """What ``from_pretrained`` makes of a folder; nothing may be missing, unexpected or of another shape."""
    cls = getattr(transformers, FAMILIES[kind].architectures[0])
    model, report = cls.from_pretrained(folder, output_loading_info=True, **options)
    assert not any(report.values()), report
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shard", ["10KB", "1GB"])
def test_there_and_back(tmp_path, kind, tied, shard):
    theirs = reference(kind, tied)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    model, params = models.load(tmp_path / "theirs")
    assert model.config.decoder.tied is tied
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(p.numel() for p in theirs.parameters())
    models.save(model, params, tmp_path / "ours", shard_bytes=10_000 if shard == "10KB" else 10**9)
    again = reopened(kind, tmp_path / "ours")
    assert again.dtype == torch.float32
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_head_stays_apart(tmp_path, kind):
    """A head of its own under a configuration that says tied: transformers must not take the embeddings for it."""
    reference(kind, tied=False).save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    text = path.read_text()
    assert '"tie_word_embeddings": false' in text
    path.write_text(text.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    model, params = models.load(tmp_path / "theirs")
    models.save(model, params, tmp_path / "ours")
    again = reopened(kind, tmp_path / "ours")
    head = again.get_output_embeddings().weight
    np.testing.assert_array_equal(head.detach().numpy(), params["decoder"]["head"])
    assert not torch.equal(head, again.get_input_embeddings().weight)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_transformers_takes_the_dtype_that_was_saved(tmp_path, kind, dtype):
    theirs = reference(kind, tied=False).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    model, params = models.load(tmp_path / "theirs", dtype=dtype)
    params = jax.tree.map(lambda leaf: leaf + jnp.asarray(2**-12, leaf.dtype), params)
    models.save(model, params, tmp_path / "ours")
    again = reopened(kind, tmp_path / "ours")
    assert again.dtype == getattr(torch, dtype)
    with TensorFiles(tmp_path / "ours") as files:
        read = {e.path: to_leaf(e, files.read(e.hub)) for e in FAMILIES[kind].entries(model.config)}
    jax.tree.map(np.testing.assert_array_equal, flatten(params), flatten(nest(read)))
    names = again.state_dict()
    norm = next(name for name in names if name.endswith("language_model.norm.weight"))
    ours = np.asarray(params["decoder"]["final_norm"]["scale"]).astype(np.float32)
    np.testing.assert_array_equal(names[norm].float().numpy(), ours)
