# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a Colab TPU to the first table
#
# In Colab choose *Runtime → Change runtime type → TPU* first. The cells install the package, say which devices there
# are, train, and show the table. On a machine without a TPU they run too: that is how they are tested.
#
# Research software. Not for clinical use.

# %% [markdown]
# ## Install
#
# Only in Colab. `git archive --format=tar.gz -o medvista.tar.gz HEAD` in a clone makes the file that the cell asks
# for. The TPU's JAX has the version that `requirements.txt` pins. If Colab asks for a restart of the session
# afterwards, do so and begin again here: nothing is installed twice.

# %%
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

IN_COLAB = importlib.util.find_spec("google.colab") is not None if importlib.util.find_spec("google") else False
if IN_COLAB:
    root = Path("/content/medvista_jax")
    if not root.exists():
        from google.colab import files

        files.upload()  # choose medvista.tar.gz
        root.mkdir()
        subprocess.run(["tar", "-xzf", "medvista.tar.gz", "-C", root], check=True)
    if importlib.util.find_spec("medvista_jax") is None:
        pins = dict(line.split("==") for line in (root / "requirements.txt").read_text().split() if "==" in line)
        extra = "tpu" if Path("/dev/accel0").exists() or Path("/dev/vfio").exists() else "cpu"
        needs = ["--editable", str(root)] + ([f"jax[tpu]=={pins['jax']}"] if extra == "tpu" else [])
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *needs], check=True)
        sys.path.insert(0, str(root))

# %% [markdown]
# ## What there is
#
# `doctor` prints versions and devices, and for everything that is missing the command that mends it.

# %%
import matplotlib.pyplot as plt  # noqa: E402  what was installed above
from PIL import Image  # noqa: E402

import medvista_jax  # noqa: E402

root = Path(medvista_jax.__file__).resolve().parents[1]
environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def run(*command: str) -> str:
    """A command of the package in a process of its own, so that it has the TPU to itself; its output."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


print(run("-c", "import jax; print(jax.__version__, [d.platform + ' ' + d.device_kind for d in jax.devices()])"))

# %% [markdown]
# A process that has imported jax holds the TPU until it ends, and a second one then waits or fails. That is why the
# commands run apart, and why this notebook has not imported jax so far.

# %% [markdown]
# ## Train
#
# `short` runs a few steps of every stage, to see that all works; its numbers mean nothing. Set `PRESET = "full"` for
# the experiment itself: nine minutes on two CPU cores (README); it has not been timed on a TPU yet. `--resume` makes
# a second execution of the cell go on where the first one stopped.

# %%
PRESET = os.environ.get("MEDVISTA_PRESET", "short")
out = Path(os.environ.get("MEDVISTA_OUT", root / "runs" / "colab"))
log = run("experiments/quickstart.py", "--preset", PRESET, "--out", str(out), "--resume")
lines = [line for line in log.splitlines() if line.startswith("[") and (" done" in line or "reused" in line)]
print("\n".join(lines))

# %% [markdown]
# ## The table
#
# Every number with its 95 % interval, and below it the protocol. With `short` all are those of an untrained model.

# %%
print((out / "table.md").read_text())

# %% [markdown]
# ## The curves

# %%
picture = Image.open(out / "curves.png").convert("RGB")
picture.thumbnail((1000, 1000))
plt.figure(figsize=(10, 10 * picture.height / picture.width), dpi=60)
plt.imshow(picture)
plt.axis("off")
plt.show()

# %% [markdown]
# ## Keep it
#
# Colab's disk is gone with the session. `experiments/export.py` writes the trained model as a hub folder with a model
# card; copy that and `report.html` (trajectories to look at) to your drive.

# %%
print(run("experiments/export.py", str(out), str(out / "export"), "--overwrite").replace(str(out), "OUT"))
card = (out / "export" / "README.md").read_text()
print(card[card.index("# medvista-tiny") :][:700], "…")
if IN_COLAB:
    from google.colab import files

    subprocess.run(["tar", "-czf", "export.tar.gz", "-C", str(out), "export", "report.html", "table.md"], check=True)
    files.download("export.tar.gz")
