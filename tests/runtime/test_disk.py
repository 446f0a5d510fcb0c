import errno
import os
import shutil
from collections import namedtuple

import pytest

from medvista_jax.runtime.checkpoints import Checkpoints
from medvista_jax.runtime.disk import DiskError, is_full, require_room, require_writable, size_text
from medvista_jax.runtime.metrics import MetricsLog

Usage = namedtuple("Usage", "total used free")


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize(
    "open_it", [require_writable, Checkpoints, lambda folder: MetricsLog(folder / "metrics.jsonl")]
)
def test_a_folder_that_cannot_be_written_says_so(tmp_path, open_it):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=f"cannot write in {tmp_path}/file/run: Not a directory. Choose another"):
        open_it(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_says_so(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DiskError, match="Permission denied"):
        require_writable(tmp_path)


def test_a_probe_that_finds_no_room_says_so(tmp_path, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    with pytest.raises(DiskError, match="cannot write in .*: No space left on device"):
        require_writable(tmp_path)


def test_room_is_counted_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100e9, 94e9, 6e9))
    require_room(tmp_path, 2 * 10**9, 3)
    with pytest.raises(DiskError) as caught:
        require_room(tmp_path, 2_500_000_000, 3)
    assert str(caught.value) == (
        f"not enough room for checkpoints in {tmp_path}: 3 of 2.5 GB need 7.5 GB, 6.0 GB are free. Free 1.5 GB, "
        "choose an output folder on another disk, or keep fewer checkpoints."
    )


def test_complete_checkpoints_give_their_room_to_new_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100, 70, 30))
    for name, size in (("10", 25), ("20.damaged", 100)):
        (tmp_path / name / "state").mkdir(parents=True)
        (tmp_path / name / "state" / "data").write_bytes(b"x" * size)
    require_room(tmp_path, 55, 1)
    with pytest.raises(DiskError, match="need 56 B, 30 B are free. Free 1 B"):
        require_room(tmp_path, 56, 1)


def test_buckets_are_not_asked():
    require_writable("gs://bucket/run")
    require_room("gs://bucket/run", 10**15, 3)


def test_a_full_disk_is_recognised_however_it_is_told():
    def caused_by(cause):
        error = ValueError("writing")
        error.__cause__ = cause
        return error

    assert is_full(OSError(errno.ENOSPC, "x")) and is_full(caused_by(caused_by(OSError(errno.EDQUOT, "x"))))
    assert is_full(ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device [28]"))
    assert not is_full(OSError(errno.EACCES, "x")) and not is_full(ValueError("RESOURCE_EXHAUSTED: device memory"))


def test_sizes_in_words():
    assert [size_text(n) for n in (0, 999, 1000, 2_340_000, 5e9, 3.21e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.3 MB",
        "5.0 GB",
        "3.2 TB",
    ]
