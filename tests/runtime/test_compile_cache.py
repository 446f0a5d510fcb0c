import os
import subprocess
import sys

from medvista_jax.runtime.compile_cache import compile_cache_folder

PROGRAM = """
import jax, jax.numpy as jnp
from medvista_jax.runtime import compile_cache
compile_cache.MINIMUM_SECONDS = 0.0
print(compile_cache.enable_compile_cache())
jax.jit(lambda x: x @ x + 1)(jnp.ones((4, 4)))
"""


def test_programs_land_in_the_folder(tmp_path):
    environment = {**os.environ, "MEDVISTA_COMPILE_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir())


def test_the_environment_decides(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.delenv("MEDVISTA_COMPILE_CACHE", raising=False)
    assert "medvista_jax" in str(compile_cache_folder())
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert compile_cache_folder() == tmp_path
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/compiled")  # a Path would drop a slash
    assert compile_cache_folder() == "gs://bucket/compiled"
    monkeypatch.setenv("MEDVISTA_COMPILE_CACHE", "off")
    assert compile_cache_folder() is None
