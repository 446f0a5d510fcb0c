# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own images and questions
#
# A folder with images and a table of questions is a data set: PNG, JPEG, TIFF, DICOM and NIfTI; `questions.jsonl`,
# CSV or parquet. This notebook writes a small one out of sample images of installed packages, finds its mistakes,
# looks at it, and plays its questions in the gym. Replace `folder` by your own.
#
# Research software. Not for clinical use. Do not put images of patients where you may not.

# %%
import json
import shutil
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from skimage import data as samples

from medvista_jax.data.controls import encode_script
from medvista_jax.data.files import BadFile, load_images, read_questions
from medvista_jax.data.files.__main__ import examine, report
from medvista_jax.data.files.sheet import draw_sheet
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.sources import package_file
from medvista_jax.environment.build import build_environment
from medvista_jax.evaluation import tables
from medvista_jax.evaluation.cards import display, make_cards
from medvista_jax.evaluation.evaluate import play
from medvista_jax.evaluation.setting import Setting
from medvista_jax.models.medvista_tiny import MedVistaTiny, MedVistaTinyConfig
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.text.chat import CompactChat
from medvista_jax.tools.registry import ALL_TOOLS

enable_compile_cache()
plt.rcParams["figure.dpi"] = 60

# %% [markdown]
# ## A folder
#
# Three images: a fundus photograph (scikit-image, Häggström 2014, CC0) in colour, a stained section (scikit-image)
# and a head CT in DICOM (pydicom-data), with Hounsfield units in its header. One question names its options, one does
# not, and two rows are wrong on purpose.

# %%
folder = Path(tempfile.mkdtemp()) / "my_questions"
folder.mkdir()
Image.fromarray(samples.retina()).resize((500, 500)).save(folder / "fundus.jpg", quality=85)
Image.fromarray(samples.immunohistochemistry()).save(folder / "stain.png")
shutil.copy(package_file("data_store", "pydicom-data", "data/693_UNCR.dcm"), folder / "head.dcm")
rows = [
    {"image": "fundus.jpg", "question": "Which organ is shown?", "options": ["eye", "lung", "head"], "answer": "eye"},
    {"image": "head.dcm", "question": "Which organ is shown?", "options": ["eye", "lung", "head"], "answer": "head"},
    {"image": "stain.png", "question": "Is it a film or a section?", "answer": "section"},
    {"image": ["fundus.jpg", "head.dcm"], "question": "Which image is in colour, 0 or 1?", "answer": "0"},
    {"image": "gone.png", "question": "Where is it?", "answer": "here"},
    {"image": "stain.png", "question": "Which dye?", "options": ["blue", "brown"], "answer": "green"},
]
(folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
print(sorted(path.name for path in folder.iterdir()))

# %% [markdown]
# ## What is in it, and what is wrong with it
#
# Rows that cannot be used are named with their place and reason. (`python -m medvista_jax.data.files FOLDER --sheet
# sheet.png` prints the same.) Without the list `problems` the first such row raises.

# %%
problems = []
items = read_questions(folder, problems=problems)
kinds, sound = examine(items, problems)
print(report(items, len(items), kinds, problems).replace(str(folder), "my_questions"))
try:
    read_questions(folder)
except BadFile as error:
    print("\nraised:", str(error).replace(str(folder), "my_questions"))

# %%
sheet = draw_sheet(items)
plt.figure(figsize=(12, 4.5))
plt.imshow(sheet)
plt.axis("off")
plt.show()

# %% [markdown]
# ## Units and windows
#
# Stored values, the window in which they are shown and the physical scale come from the file's header; what a file
# does not say is absent, not guessed.

# %%
(head,) = load_images(folder / "head.dcm")
slope, intercept = head.rescale or (1.0, 0.0)
levels = np.array(head.window) * slope + intercept
print(f"{head.pixels_YXC.shape} {head.pixels_YXC.dtype}, modality {head.modality}, spacing {head.spacing} mm")
print(f"shown from {levels[0]:.0f} to {levels[1]:.0f} HU")
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4))
for axis, (low, high) in zip(axes, (head.window, [(hu - intercept) / slope for hu in (-20, 100)]), strict=True):
    axis.imshow(display(head.pixels_YXC, (low, high)), cmap="gray")
    axis.set_title(f"{low * slope + intercept:.0f} … {high * slope + intercept:.0f} HU", fontsize=10)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Into the gym
#
# The questions become a pool: prompts rendered once, images laid on one canvas, answers apart from everything that
# the policy or a tool can read.

# %%
setting = Setting()
tools = [ALL_TOOLS[name] for name in ("zoom_in", "adjust_window", "region_statistics")]
TURN_TOKENS = 64
environment = build_environment(
    setting.tokenizer,
    tools,
    setting.model.tokens_per_image,
    setting.model.image_size,
    setting.turns,
    TURN_TOKENS,
)
families = sorted({item.family for item in items})
pool = QuestionPool(
    items, families, CompactChat(setting.tokenizer), tools, setting.model.tokens_per_image, 128, setting.turns
)
model = MedVistaTiny(MedVistaTinyConfig(vocab_size=setting.model.vocab_size, channels=pool.images.channels))
question, key = pool.batch(np.arange(len(pool)))
print("pixels", question.bank.pixels_POYXC.shape, question.bank.pixels_POYXC.dtype, "images", question.bank.count_P)
print("HU scale of the CT:", question.bank.rescale_PO2[1, 0], "mm:", question.bank.spacing_PO2[1, 0])

# %% [markdown]
# ## Asking a policy
#
# The quickstart's policy has not learnt such questions, and it reads grey images; with colour among them the model
# has three channels. So the weights here are random and the turns are scripted: a look or a measurement, then an
# answer that is always the same. It is a floor to compare a policy with. Answers are right when they equal the key
# after normalisation.

# %%
statistics, zoom = ALL_TOOLS["region_statistics"].spec, ALL_TOOLS["zoom_in"].spec
looks = [
    zoom.render_call(bbox_2d=[300, 300, 700, 700]),
    statistics.render_call(bbox_2d=[400, 400, 600, 600]),
    statistics.render_call(bbox_2d=[400, 400, 600, 600]),
    zoom.render_call(bbox_2d=[300, 300, 700, 700], image_index=1),
]
texts = [[f"<tool_call>{look}</tool_call>", "<answer>eye</answer>"] for look in looks]
script = Script(*encode_script(texts, setting.tokenizer, setting.turns, TURN_TOKENS))
params = jax.jit(model.init)(jax.random.key(0))
trajectory, terms = play(
    model, "vista_r1", params, environment, question, key, script, jax.random.key(0), Sampling.at(0.0)
)
cards = make_cards(environment, setting.tokenizer, items, question, trajectory, terms, "constant")
for card in cards:
    print(f"{card.id}: {card.turns[0].text}\n    <- {card.turns[0].observation}   answer {card.answer}: {card.correct}")

# %% [markdown]
# The CT's statistics are in Hounsfield units, for its header has the scale; the section's are stored levels, for its
# file has none. The mean of the CT's region by hand:

# %%
rows, columns = (slice(round(0.4 * side), round(0.6 * side)) for side in head.pixels_YXC.shape[:2])
print(f"{(head.pixels_YXC[rows, columns].astype(float) * slope + intercept).mean():.1f} HU")

# %% [markdown]
# From outcomes to a table with intervals and protocol:

# %%
right, calls = np.asarray(terms.correct_B) > 0, np.asarray(trajectory.calls_B)
row = tables.make_row(
    condition="always_eye",
    needs="all",
    tools=True,
    decoding="greedy",
    correct=int(right.sum()),
    n=len(items),
    calls=int(calls.sum()),
    seed=0,
    seconds=0.0,
)
protocol = tables.Protocol(
    dataset="my_questions",
    split="all",
    scorer="normalised exact match",
    decoding="scripted",
    notes=("a constant answer",),
)
print(tables.markdown([row], protocol))

# %% [markdown]
# The same `items` go everywhere where the atlas's go: `gymnasium.make("MedVista-v0", questions=FOLDER)`, `python -m
# medvista_jax.environment play --questions FOLDER` for a chat endpoint, `experiments/sample_trajectories.py`,
# training.
