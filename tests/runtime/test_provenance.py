"""Commits as git itself names them."""

import subprocess

import numpy as np

from medvista_jax.runtime.provenance import commit, versions


def git(folder, *arguments):
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *settings, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit_of_a_clone(tmp_path):
    assert commit(tmp_path) == "unknown"
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) == "unknown"  # nothing committed yet
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(tmp_path) == head[:12]
    (tmp_path / "untracked.txt").write_text("1")
    assert commit(tmp_path) == head[:12]
    (tmp_path / "a.txt").write_text("2")
    assert commit(tmp_path) == f"{head[:12]}, changed"
    inside = tmp_path / "inside"
    inside.mkdir()
    assert commit(inside) == "unknown"  # a folder in somebody else's clone


def test_versions_are_those_that_run():
    assert versions()["numpy"] == np.__version__
