import importlib.metadata
import re
import subprocess
import sys

import pytest

from medvista_jax.__main__ import main as dispatch
from medvista_jax.runtime import doctor


def run_doctor(tmp_path, requirements, monkeypatch, capsys, files):
    path = tmp_path / "requirements.txt"
    path.write_text(requirements)
    monkeypatch.setattr(doctor, "PACKAGED_FILES", files)
    code = dispatch(["doctor", "--requirements", str(path)])
    return code, capsys.readouterr().out


NUMPY = importlib.metadata.version("numpy")
RETINA = {"fundus": ("skimage", "data/retina.jpg", "scikit-image")}


def test_a_healthy_machine_exits_with_zero(tmp_path, monkeypatch, capsys):
    code, out = run_doctor(tmp_path, f"# pins\nnumpy=={NUMPY}\n", monkeypatch, capsys, RETINA)
    assert code == 0
    for word in (
        "python",
        "cores",
        "cpu 0",
        NUMPY,
        "fundus",
        "free disk",
        "compile cache",
    ):
        assert word in out
    assert "\nEverything needed is here." in out  # and perhaps notes: of files that the first use fetches


def test_a_hidden_package_is_named_with_its_remedy(tmp_path, monkeypatch, capsys):
    code, out = run_doctor(tmp_path, "no-such-thing==1.2.3\n", monkeypatch, capsys, RETINA)
    assert code == 1
    assert re.search(r"MISS  no-such-thing +missing \(needs 1\.2\.3\)", out)
    assert "-m pip install no-such-thing==1.2.3" in out
    assert "1 needed thing(s) missing" in out


def test_another_version_is_only_a_note(tmp_path, monkeypatch, capsys):
    code, out = run_doctor(tmp_path, "numpy==1.0.0\n", monkeypatch, capsys, RETINA)
    assert code == 0
    assert f"{NUMPY}, tested with 1.0.0" in out
    assert "-m pip install numpy==1.0.0" in out


def test_absent_data_is_named_with_its_remedy(tmp_path, monkeypatch, capsys):
    files = {
        "fundus": ("skimage", "data/nothing.jpg", "scikit-image"),
        "films": ("no_such_package", "*.dcm", "pydicom-data"),
    }
    code, out = run_doctor(tmp_path, f"numpy=={NUMPY}\n", monkeypatch, capsys, files)
    assert code == 1
    assert "not in scikit-image" in out
    assert "pip install --force-reinstall --no-deps scikit-image==" in out
    assert "pip install --force-reinstall --no-deps pydicom-data==" in out


def test_a_wrong_python_and_a_full_disk_are_needed(monkeypatch, tmp_path):
    assert not doctor.check_python((3, 12)).remedy
    for version in ((3, 10), (3, 13)):
        check = doctor.check_python(version)
        assert check.needed and "PYTHON=python3.11" in check.remedy
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    assert "--out" in doctor.check_storage(tmp_path)[0].remedy


def test_files_that_are_fetched_once(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDVISTA_CACHE", str(tmp_path))
    check, language, vision = doctor.check_fetched()
    assert not check.needed and "medvista_jax.data.atlas --sheet" in check.remedy
    for weights in (language, vision):
        assert not weights.needed and "-m medvista_jax.models.medvista_smol" in weights.remedy
    (tmp_path / "stardist-0.9.2").mkdir()
    for name in ("histo.jpg", "img2d.tif", "mask2d.tif"):
        (tmp_path / "stardist-0.9.2" / name).write_bytes(b"x")
    check, *_ = doctor.check_fetched()
    assert check.value.startswith("3 files") and not check.remedy


def test_the_doctor_works_where_nothing_is_installed():
    run = subprocess.run([sys.executable, "-S", "-m", "medvista_jax", "doctor"], capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr == ""
    for name, pin in doctor.read_pins().items():
        assert f"-m pip install {name}=={pin}" in run.stdout
    assert "No module named 'jax'" in run.stdout


def test_every_pin_of_the_repository_is_exact():
    lines = (doctor.Path(doctor.__file__).parents[2] / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert len(doctor.read_pins()) == len(wanted)


def test_the_command_line():
    run = subprocess.run([sys.executable, "-m", "medvista_jax"], capture_output=True, text=True)
    assert run.returncode == 0 and "doctor" in run.stdout
    run = subprocess.run([sys.executable, "-m", "medvista_jax", "nonsense"], capture_output=True, text=True)
    assert run.returncode == 2 and "unknown command 'nonsense'" in run.stderr
    with pytest.raises(SystemExit):
        dispatch(["doctor", "--requirements", "/no/such/file"])


def test_a_reader_that_stops_early_is_no_error():
    """`doctor | head -1`: the reader closes the pipe before the report is written."""
    run = subprocess.Popen(
        [sys.executable, "-m", "medvista_jax", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.stdout.close()
    assert run.wait(timeout=120) == 0 and b"Error" not in run.stderr.read()
