# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Looking at trajectories
#
# A trajectory is what a policy read and wrote: the question's image, its thoughts, its tool calls, what the tools
# returned, its answer. This notebook plays some, draws them with the boxes that were looked at, reads the arrays
# behind them, and plays them again to the bit.
#
# The model here has random weights and says nothing sensible, so its turns are *scripted* by the teacher that
# supervised fine-tuning learns from. Everything else — prompts, tools, observations, rewards — is what a trained
# policy meets. For the trajectories of a trained one: `python experiments/quickstart.py`, then `report.html`.
#
# Research software. Not for clinical use. The targets of the question families `implant_*` are drawn into real MR
# slices by the program.

# %%
import json
import tempfile
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from medvista_jax.core.types import Fault, Kind
from medvista_jax.data.atlas import Atlas
from medvista_jax.data.controls import encode_script
from medvista_jax.data.teachers import TeacherConfig, teach
from medvista_jax.evaluation.cards import make_cards
from medvista_jax.evaluation.conditions import CONDITIONS
from medvista_jax.evaluation.evaluate import play
from medvista_jax.evaluation.replay import differences, play_and_save
from medvista_jax.evaluation.setting import Setting, save_policy
from medvista_jax.models.names import flatten
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache

enable_compile_cache()
plt.rcParams["figure.dpi"] = 60

# %% [markdown]
# ## Questions and a teacher
#
# `Setting` is the packaged model, its tools and its environment. The teacher writes the text of every turn; it is
# imperfect on purpose: `shift` moves its boxes, `wrong_first` makes it look at a random place first.

# %%
setting = Setting()
atlas = Atlas("test")
items = [atlas.item(family, 3) for family in ("implant_shape", "implant_stripes", "lesion_ct", "brighter")]
pool = setting.pool_of(items)
rng = np.random.default_rng(1)
teacher = TeacherConfig(shift=0.0, direct=0.0, wrong_first=0.5)
texts = [teach(item, rng, teacher, True, setting.turns) for item in items]
for item, turns in zip(items, texts, strict=True):
    print(f"{item.id}  needs: {item.needs}\n  {item.question}")
    for turn in turns:
        print(f"    {turn}")

# %% [markdown]
# ## Playing them
#
# One compiled call plays a batch: prefill, turns, tools, observations, reward. A row's script is followed as far as
# it goes; behind its end the policy itself would speak.

# %%
question, key = pool.batch(np.arange(len(items)))
script = Script(*encode_script(texts, setting.tokenizer, setting.turns, setting.turn_tokens))
params = jax.jit(setting.model.init)(jax.random.key(0))
trajectory, terms = play(
    setting.model, "vista_r1", params, setting.environment, question, key, script, jax.random.key(1), Sampling.at(1.0)
)
cards = make_cards(setting.environment, setting.tokenizer, items, question, trajectory, terms, "teacher")

# %% [markdown]
# ## Images, calls, boxes
#
# Left the original with every box that was zoomed into (solid) and the place where the answer lies (dashed; the
# policy never sees it). Then each view as the model read it: 64 × 64 pixels, sampled anew from the original.


# %%
def draw(card) -> None:
    """One trajectory: its images in a row, its text below."""
    figure, axes = plt.subplots(1, len(card.images), figsize=(3.2 * len(card.images), 3.4), squeeze=False)
    for axis, image in zip(axes[0], card.images, strict=True):
        axis.imshow(image.pixels, cmap="gray", vmin=0, vmax=255)
        height, width = image.pixels.shape[:2]
        for x1, y1, x2, y2, label, kind in image.boxes:
            corner, sides = (
                (x1 * width / 1000, y1 * height / 1000),
                ((x2 - x1) * width / 1000, (y2 - y1) * height / 1000),
            )
            style = {"edgecolor": "tab:orange"} if kind == "call" else {"edgecolor": "tab:green", "linestyle": "--"}
            axis.add_patch(Rectangle(corner, *sides, fill=False, linewidth=2, **style))
            axis.text(*corner, label, color=style["edgecolor"], fontsize=9, va="bottom")
        axis.set_title(image.caption, fontsize=10)
        axis.axis("off")
    figure.suptitle(f"{card.question}", fontsize=10, wrap=True)
    plt.tight_layout()
    plt.show()
    for number, turn in enumerate(card.turns):
        said = f"turn {number}  {turn.text}"
        print(said + (f"\n        <- {turn.observation or turn.fault}" if turn.kind != "answer" else ""))
    verdict = "right" if card.correct else "wrong"
    print(f"answer {card.answer!r}, truth {card.truth!r}: {verdict}; rewards {card.rewards}\n")


for card in cards:
    draw(card)

# %% [markdown]
# ## The arrays behind them
#
# A trajectory is a pytree of arrays, one row an episode: exactly the ids that the model read, which of them it chose
# (`sampled_BS`: the only ones that carry loss), and where image embeddings stand (`feature_BS`).

# %%
host = jax.tree.map(np.asarray, trajectory)
row = 0
for slot in np.flatnonzero(host.valid_BS[row])[:60]:
    who = "policy" if host.sampled_BS[row, slot] else "image" if host.feature_BS[row, slot] >= 0 else "prompt/tool"
    if who != "image":
        print(f"{slot:3d} {who:12s} {setting.tokenizer.decode([int(host.tokens_BS[row, slot])])!r}")
print({name: np.shape(leaf) for name, leaf in vars(host).items() if isinstance(leaf, np.ndarray)})

# %% [markdown]
# ## Calls that go wrong
#
# Nothing raises and nothing is dropped: a faulty call becomes an observation that the policy reads.

# %%
wrong = [
    ['<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [100, 100, 100, 400]}}</tool_call>'],
    ['<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500], "image_index": 7}}</tool_call>'],
    ['<tool_call>{"name": "sharpen", "arguments": {}}</tool_call>'],
    ['<tool_call>{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0</tool_call>'],
]
script = Script(*encode_script(wrong, setting.tokenizer, setting.turns, setting.turn_tokens))
faulty, terms = play(
    setting.model, "vista_r1", params, setting.environment, question, key, script, jax.random.key(1), Sampling.at(1.0)
)
heard = make_cards(setting.environment, setting.tokenizer, items, question, faulty, terms, "faults")
for card, kind, fault in zip(heard, faulty.turns.kind_BR[:, 0], faulty.turns.fault_BR[:, 0], strict=True):
    print(
        f"{Kind(int(kind)).name:5s} {Fault(int(fault)).name:14s} {card.turns[0].text}  ->  {card.turns[0].observation}"
    )

# %% [markdown]
# ## Replay
#
# A saved batch records what decided it: questions, policy, key, temperature. `differences` plays it again and names
# every array that is not the same to the bit. Here the policy *samples* at temperature 1, behind scripted first
# looks.

# %%
run = Path(tempfile.mkdtemp()) / "seed_0"
save_policy(run / "policy" / "grpo.safetensors", flatten(params), {})
condition = next(condition for condition in CONDITIONS if condition.name == "random_crop")
play_and_save(run, setting, pool, condition, seed=0, temperature=1.0)
about = json.loads((run / "trajectories" / "random_crop.json").read_text())
print({name: about[name] for name in ("condition", "seed", "temperature", "items")})
print("arrays that differ:", differences(run, "random_crop")[0])

# %% [markdown]
# The check can fail: with another seed in the record, other tokens come out.

# %%
(run / "trajectories" / "random_crop.json").write_text(json.dumps(about | {"seed": 1}))
print("arrays that differ:", differences(run, "random_crop")[0])
assert "tokens_BS" in differences(run, "random_crop")[0]

# %% [markdown]
# On the command line: `python -m medvista_jax replay RUN/seed_0 --trajectory 3`. Trajectories in files, for training
# and for other people's tools: `medvista_jax.data.trajectories`.
