"""Safetensors shards: read against the format's own library, written for it, and everything that can be wrong."""

import json
import pickle
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from medvista_jax.models.shard_writer import ShardWriter, plan_shards, write_index
from medvista_jax.models.tensor_files import INDEX, SINGLE, BadCheckpoint, Tensor, TensorFiles, copy_block

BF16 = np.dtype(ml_dtypes.bfloat16)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda shape, dtype: rng.normal(size=shape).astype(dtype)  # noqa: E731
    return {
        "a.weight": draw((6, 5), np.float32),
        "b.weight": draw((3, 4, 2, 2), BF16),
        "c.bias": draw((7,), np.float16),
        "d.scale": draw((), np.float32),
        "e.count": np.arange(3),
        "f.empty": np.zeros((0, 4), np.float32),
        "g.bias": draw((2,), np.float32),
    }


@pytest.fixture
def folder(tmp_path):
    """One file, written by the format's own library."""
    (tmp_path / "config.json").write_text("{}")
    save_file(arrays(), tmp_path / SINGLE)
    return tmp_path


def sharded(folder, shard_bytes=100):
    """The same tensors written by us, in several shards."""
    (folder / "config.json").write_text("{}")
    values = arrays()
    shards = plan_shards([Tensor(name, value.dtype, value.shape) for name, value in values.items()], shard_bytes)
    for file, tensors in shards.items():
        with ShardWriter(folder / file, tensors) as shard:
            for tensor in tensors:
                shard.append(values[tensor.name])
    write_index(folder, shards)
    return folder


def test_reads_what_the_library_wrote(folder):
    with TensorFiles(folder) as files:
        assert set(files.tensors) == set(arrays())
        for name, value in arrays().items():
            read = files.read(name)
            assert (read.dtype, read.shape) == (value.dtype, value.shape)
            np.testing.assert_array_equal(read, value)
        assert files.bytes_read == sum(value.nbytes for value in arrays().values())


def test_the_library_reads_what_we_wrote(tmp_path):
    files = sorted(sharded(tmp_path).glob("*.safetensors"))
    assert [file.name for file in files] == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    values = {name: value for file in files for name, value in load_file(file).items()}
    assert set(values) == set(arrays())
    for name, value in arrays().items():
        assert values[name].dtype == value.dtype
        np.testing.assert_array_equal(values[name], value)
    for file in files:
        with safe_open(file, "np") as shard:
            assert shard.metadata() == {"format": "pt"}
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in arrays().values())
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    with TensorFiles(tmp_path) as ours:
        np.testing.assert_array_equal(ours.read("b.weight"), arrays()["b.weight"])


@pytest.mark.parametrize(
    "index",
    [
        (slice(None), slice(1, 3), slice(None), slice(0, 1)),
        (slice(1, 2), slice(0, 4), slice(None), slice(None)),
        (slice(2, 3), slice(3, 4), slice(1, 2), slice(1, 2)),
        (slice(0, 3), slice(2, 2), slice(None), slice(None)),
    ],
)
def test_a_slice_reads_its_own_bytes_only(folder, index):
    with TensorFiles(folder) as files:
        part = files.read("b.weight", index)
        np.testing.assert_array_equal(part, arrays()["b.weight"][index])
        assert files.bytes_read == part.nbytes


def test_no_byte_beside_the_slice_is_asked_of_the_file(folder, monkeypatch):
    """Counted where the file is read, not by our own counter."""
    asked = []
    read_into = TensorFiles._read_into
    monkeypatch.setattr(TensorFiles, "_read_into", lambda *a: (asked.append((a[3], len(a[2]))), read_into(*a)))
    with TensorFiles(folder) as files:
        start = files.tensors["a.weight"].start
        files.read("a.weight", (slice(2, 4), slice(1, 3)))
        assert asked == [(start + (5 * row + 1) * 4, 8) for row in (2, 3)]
        asked.clear()
        files.read("a.weight", (slice(2, 4), slice(None)))
        assert asked == [(start + 40, 40)], "rows side by side are one read"


def test_another_shape_of_the_same_bytes(folder):
    with TensorFiles(folder) as files:
        part = files.read("b.weight", (slice(1, 3), slice(3, 9)), shape=(3, 16))
        np.testing.assert_array_equal(part, arrays()["b.weight"].reshape(3, 16)[1:3, 3:9])
        with pytest.raises(ValueError, match="cannot be seen as"):
            files.read("b.weight", shape=(3, 15))
        with pytest.raises(ValueError, match="step"):
            files.read("a.weight", (slice(0, 4, 2), slice(None)))
        with pytest.raises(ValueError, match="1 slices for 2 axes"):
            files.read("a.weight", (slice(None),))


@pytest.mark.parametrize("shape", [(130, 70), (1, 5), (200, 1)])
@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_transposed_copies(shape, dtype):
    values = np.random.default_rng(1).normal(size=shape).astype(dtype)
    for block in (values, np.asfortranarray(values), np.ascontiguousarray(values.T).T):
        for out in (np.zeros(shape, dtype), np.zeros(shape[::-1], dtype).T):
            copy_block(out, block)
            np.testing.assert_array_equal(out, values)


def test_transposed_tensors_are_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("medvista_jax.models.shard_writer._BLOCK_BYTES", 600)
    value = np.random.default_rng(2).normal(size=(70, 130)).astype(np.float32)
    with ShardWriter(tmp_path / SINGLE, [Tensor("w", value.dtype, (130, 70))]) as shard:
        shard.append(value.T)
    np.testing.assert_array_equal(load_file(tmp_path / SINGLE)["w"], value.T)


def test_shards_keep_their_size_and_wide_types_come_first():
    narrow, wide = np.dtype(np.float16), np.dtype(np.float32)
    tensors = [Tensor("a", narrow, (3,)), Tensor("b", wide, (4,)), Tensor("c", wide, (100,)), Tensor("d", narrow, (1,))]
    shards = plan_shards(tensors, 24)
    assert [[t.name for t in shard] for shard in shards.values()] == [["b", "a"], ["c"], ["d"]]
    assert list(plan_shards(tensors, 1000)) == [SINGLE]
    for bad in ([], [tensors[0], tensors[0]], [Tensor("x", np.dtype(np.complex64), (1,))]):
        with pytest.raises(ValueError):
            plan_shards(bad)
    with pytest.raises(ValueError, match="shard_bytes"):
        plan_shards(tensors, 0)


def test_an_unfinished_shard_leaves_nothing(tmp_path):
    tensors = [Tensor("a", np.dtype(np.float32), (2,)), Tensor("b", np.dtype(np.float32), (2,))]
    for wrong in (np.zeros(3, np.float32), np.zeros(2, np.float16)):
        with pytest.raises(ValueError, match="a was announced as"), ShardWriter(tmp_path / SINGLE, tensors) as shard:
            shard.append(wrong)
    with pytest.raises(ValueError, match="lacks b"), ShardWriter(tmp_path / SINGLE, tensors) as shard:
        shard.append(np.zeros(2, np.float32))
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / SINGLE, tensors):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


# Bad input. ``path`` is a folder with a sound checkpoint in several shards; each function spoils it in one way.


def no_folder(path):
    return path / "nowhere"


def a_file(path):
    return path / "config.json"


def no_config(path):
    (path / "config.json").unlink()


def adapter(path):
    no_config(path)
    (path / "adapter_config.json").write_text("{}")


def no_weights(path):
    for file in [*path.glob("*.safetensors"), path / INDEX]:
        file.unlink()


def only_pickles(path):
    no_weights(path)
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


def only_ckpt(path):
    no_weights(path)
    (path / "last.ckpt").write_bytes(pickle.dumps(Bomb()))


def pickle_in_disguise(path):
    no_weights(path)
    (path / SINGLE).write_bytes(b"PK\x03\x04" + pickle.dumps(Bomb()))


def plain_pickle_in_disguise(path):
    no_weights(path)
    (path / SINGLE).write_bytes(pickle.dumps(Bomb(), protocol=2))


def index_of_pickles(path):
    index = json.loads((path / INDEX).read_text())
    (path / INDEX).write_text(json.dumps(index | {"weight_map": {"a.weight": "pytorch_model.bin"}}))
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))


def lfs_pointer(path):
    (path / "model-00002-of-00003.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def missing_shard(path):
    (path / "model-00002-of-00003.safetensors").unlink()


def no_index(path):
    (path / INDEX).unlink()


def index_no_json(path):
    (path / INDEX).write_text("{")


def index_no_object(path):
    (path / INDEX).write_text("[]")


def index_without_map(path):
    (path / INDEX).write_text("{}")


def index_leaves_the_folder(path):
    (path / INDEX).write_text(json.dumps({"weight_map": {"a.weight": "../model-00001-of-00003.safetensors"}}))


def index_of_another(path):
    index = json.loads((path / INDEX).read_text())
    index["weight_map"]["a.weight"], index["weight_map"]["c.bias"] = (
        index["weight_map"]["c.bias"],
        index["weight_map"]["a.weight"],
    )
    (path / INDEX).write_text(json.dumps(index))


def tensor_twice(path):
    first = load_file(path / "model-00001-of-00003.safetensors")
    save_file(load_file(path / "model-00003-of-00003.safetensors") | first, path / "model-00003-of-00003.safetensors")


def cut_off_in_data(path):
    file = path / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def cut_off_in_header(path):
    file = path / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:40])


def empty_file(path):
    (path / "model-00002-of-00003.safetensors").write_bytes(b"")


def too_long(path):
    file = path / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes() + b"xx")


def garbage(path):
    (path / "model-00002-of-00003.safetensors").write_bytes(b"\xff" * 200)


def rewrite_header(path, change):
    file = path / "model-00002-of-00003.safetensors"
    data = file.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def wrong_shape(path):
    rewrite_header(path, lambda header: header["b.weight"].update(shape=[3, 4, 2, 3]))


def wrong_dtype(path):
    rewrite_header(path, lambda header: header["b.weight"].update(dtype="Q4"))


def negative_size(path):
    rewrite_header(path, lambda header: header["b.weight"].update(shape=[-3, -4, 2, 2]))


def wrong_place(path):
    rewrite_header(path, lambda header: header["b.weight"].update(data_offsets=[2, 98]))


def header_of_numbers(path):
    rewrite_header(path, lambda header: header.update({"b.weight": 3}))


class Bomb:
    """Says so when somebody unpickles it."""

    def __reduce__(self):
        return exec, ("raise SystemError('a pickle was opened')",)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (no_folder, "no folder .*nowhere.*hf download"),
        (a_file, "config.json is a file; give the folder"),
        (no_config, "no config.json"),
        (adapter, "adapter: give the folder of its base model"),
        (no_weights, "holds no weights.*model.safetensors"),
        (only_pickles, "pytorch_model.bin, a pickle, which is never opened.*save_pretrained"),
        (only_ckpt, "last.ckpt, a pickle"),
        (pickle_in_disguise, "model.safetensors is a pickle with another name"),
        (plain_pickle_in_disguise, "model.safetensors is a pickle with another name"),
        (index_of_pickles, "index.json places 'a.weight' in 'pytorch_model.bin'; only"),
        (lfs_pointer, "model-00002-of-00003.safetensors is a Git LFS pointer.*git lfs pull"),
        (missing_shard, "lacks model-00002-of-00003.safetensors, named by"),
        (no_index, "holds model-00001-of-00003.safetensors, but neither"),
        (index_no_json, "index.json is no JSON"),
        (index_no_object, "index.json holds no JSON object"),
        (index_without_map, "no weight_map"),
        (index_leaves_the_folder, "only .* files beside the index"),
        (index_of_another, "index.json says that .* which does not hold it"),
        (tensor_twice, "'a.weight' is both in"),
        (cut_off_in_data, "model-00002-of-00003.safetensors is cut off: .* bytes instead of"),
        (cut_off_in_header, "model-00002-of-00003.safetensors is cut off or no safetensors"),
        (empty_file, "model-00002-of-00003.safetensors is cut off or no safetensors file: 0 bytes"),
        (too_long, "model-00002-of-00003.safetensors is longer than it should be"),
        (garbage, "model-00002-of-00003.safetensors is cut off or no safetensors"),
        (wrong_shape, "damaged header.*b.weight"),
        (wrong_dtype, "'b.weight' has the unknown dtype 'Q4'"),
        (negative_size, "damaged header.*b.weight"),
        (wrong_place, "damaged header.*b.weight"),
        (header_of_numbers, "damaged header"),
    ],
)
def test_bad_input(tmp_path, spoil, says):
    sharded(tmp_path)
    TensorFiles(tmp_path)  # sound before it is spoilt
    with pytest.raises(BadCheckpoint, match=says) as error:
        TensorFiles(spoil(tmp_path) or tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_cut_off_while_it_is_read(folder):
    with TensorFiles(folder) as files:
        path = folder / SINGLE
        path.write_bytes(path.read_bytes()[: files.tensors["a.weight"].start + 20])
        with pytest.raises(BadCheckpoint, match="ends inside 'a.weight'"):
            files.read("a.weight")
