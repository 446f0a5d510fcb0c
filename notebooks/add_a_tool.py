# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Adding a tool
#
# A tool is one function. Its JSON schema, the prompt's tool block, the grammar, the device's parser and the host's
# parser follow from the declaration. This notebook defines two, tries them by hand, shows that both parsers read
# their calls alike, and plays a rollout in which a policy calls them.
#
# Research software. Not for clinical use.

# %%
import collections
import json

import jax
import matplotlib.pyplot as plt
import numpy as np

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Fault, Kind
from medvista_jax.data.atlas import Atlas
from medvista_jax.data.controls import encode_script
from medvista_jax.data.questions import QuestionPool
from medvista_jax.environment.build import build_environment, token_costs
from medvista_jax.evaluation.cards import make_cards
from medvista_jax.evaluation.evaluate import play
from medvista_jax.evaluation.setting import Setting
from medvista_jax.rollout.loop import Script
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.runtime.compile_cache import enable_compile_cache
from medvista_jax.text.chat import CompactChat, tool_block
from medvista_jax.text.compare import parse_both
from medvista_jax.text.grammar import compile_grammar
from medvista_jax.tools.apply import apply_calls
from medvista_jax.tools.call import ToolCall
from medvista_jax.tools.define import Reading, effect_tool, measure_tool
from medvista_jax.tools.registry import DEFAULT_TOOLS

enable_compile_cache()
plt.rcParams["figure.dpi"] = 60

# %% [markdown]
# ## Two tools
#
# `gamma` changes how an image is shown: an *effect*, a function from displayed levels to displayed levels. `middle`
# *measures*: it says a number. Both must be traceable by JAX, for they run inside the compiled rollout; an argument
# `image_index` is added to each.


# %%
@effect_tool("Brighten dark parts, or darken them.", Argument("percent", "below 100 brightens", "integer", 10, 400))
def gamma(levels_hwC, percent):
    return 255.0 * (levels_hwC / 255.0) ** (percent / 100.0)


@measure_tool("Say how bright the middle of an image is.", texts=("level {0:3u}",), sees=True)
def middle(sight):
    height, width, _ = sight.shown_hwC.shape
    return Reading(numbers=(sight.shown_hwC[height // 2, width // 2, 0],))


own = {tool.spec.name: tool for tool in (gamma, middle)}
print(json.dumps(gamma.spec.schema(), indent=1))

# %% [markdown]
# What a policy is told, word for word as Qwen's chat template has it, and what that costs in tokens of the packaged
# vocabulary:

# %%
setting = Setting()
print(tool_block([tool.spec for tool in own.values()]))
costs = token_costs(setting.tokenizer, list(own.values()), setting.model.tokens_per_image)
print({name: cost._asdict() for name, cost in costs.items()})

# %% [markdown]
# ## By hand
#
# `apply_calls` runs a tool on any image, outside of an episode. A call that makes no sense is a fault, not an
# exception.

# %%
item = Atlas("test").item("implant_shape", 5)
image = np.clip(item.pixels[..., 0], 0, 255).astype(np.uint8)
calls = [
    ToolCall("gamma", {"percent": 40}, [image]),
    ToolCall("gamma", {"percent": 250}, [image]),
    ToolCall("middle", {}, [image]),
    ToolCall("gamma", {"percent": 900}, [image]),
]
results = apply_calls(own, calls)
for call, result in zip(calls, results, strict=True):
    print(call.name, dict(call.arguments), "->", result.fault.name, result.text)
assert results[3].fault == Fault.OUT_OF_RANGE
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
shown = {"original": image, "gamma, 40 %": results[0].image, "gamma, 250 %": results[1].image}
for axis, (title, pixels) in zip(axes, shown.items(), strict=True):
    axis.imshow(np.squeeze(pixels), cmap="gray", vmin=0, vmax=255)
    axis.set_title(title, fontsize=10)
    axis.axis("off")
plt.tight_layout()
plt.show()
expected = 255.0 * (image / 255.0) ** 0.4
print("largest difference from NumPy, levels:", np.abs(np.squeeze(results[0].image) - expected).max())

# %% [markdown]
# ## Both parsers
#
# In a rollout the *device* parses turns, with tables compiled from the specs. The host's parser reads the same specs
# with Python's JSON. They must agree on every turn, sound or not.

# %%
specs = [tool.spec for tool in own.values()]
turns = [
    f"<think>dark</think><tool_call>{gamma.spec.render_call(percent=40)}</tool_call>",
    f"<tool_call>{middle.spec.render_call(image_index=1)}</tool_call>",
    f"<tool_call>{gamma.spec.render_call(percent=900)}</tool_call>",
    '<tool_call>{"name": "gamma", "arguments": {"percent": "forty"}}</tool_call>',
    "<answer>ring</answer>",
]
for text, (host, device) in zip(
    turns, parse_both(specs, compile_grammar(specs), [turn.encode() for turn in turns], 128), strict=True
):
    assert host == device
    print(f"{device['kind']:7s} {device['fault']:13s} {text}")

# %% [markdown]
# ## In a rollout
#
# The environment is built with the packaged tools and ours; nothing else changes. The policy has random weights, so
# its turns are scripted: brighten by a percentage that differs from row to row, measure the image that came back,
# answer. The last two rows call wrongly. Parsing, tools and observations run on the device, in one compiled program.

# %%
tools = [*DEFAULT_TOOLS.values(), *own.values()]
TURN_TOKENS = 64
environment = build_environment(
    setting.tokenizer,
    tools,
    setting.model.tokens_per_image,
    setting.model.image_size,
    setting.turns,
    TURN_TOKENS,
)
atlas = Atlas("test")
items = [atlas.item("implant_shape", index) for index in range(8)]
chat = CompactChat(setting.tokenizer)
pool = QuestionPool(items, atlas.families, chat, tools, setting.model.tokens_per_image, 72, setting.turns)
offered = chat.prompt(items[0].question, [1], [tool.spec for tool in tools]).tokens
print(setting.tokenizer.decode(offered))

percents = [40, 60, 80, 100, 150, 250]
texts = [
    [
        f"<think>dark</think><tool_call>{gamma.spec.render_call(percent=percent)}</tool_call>",
        f"<think>how bright</think><tool_call>{middle.spec.render_call(image_index=1)}</tool_call>",
        f"<think>clear</think><answer>{item.answer}</answer>",
    ]
    for percent, item in zip(percents, items, strict=False)
]
texts += [
    [f"<tool_call>{gamma.spec.render_call(percent=900)}</tool_call>", "<answer>ring</answer>"],
    [f"<tool_call>{middle.spec.render_call(image_index=5)}</tool_call>", "<answer>ring</answer>"],
]
question, key = pool.batch(np.arange(len(items)))
script = Script(*encode_script(texts, setting.tokenizer, setting.turns, TURN_TOKENS))
params = jax.jit(setting.model.init)(jax.random.key(0))
trajectory, terms = play(
    setting.model, "vista_r1", params, environment, question, key, script, jax.random.key(3), Sampling.at(1.0)
)
cards = make_cards(environment, setting.tokenizer, items, question, trajectory, terms, "scripted")
turns = jax.tree.map(np.asarray, trajectory.turns)
called = turns.kind_BR == Kind.CALL
print("\ncalls:", dict(collections.Counter(tools[index].spec.name for index in turns.tool_BR[called] if index >= 0)))
print("faults:", dict(collections.Counter(Fault(int(fault)).name for fault in turns.fault_BR[called])))
for card in (cards[0], cards[6], cards[7]):
    print()
    for turn in card.turns:
        print(f"{turn.text}\n    <- {turn.observation or turn.fault or '(end)'}")

# %% [markdown]
# What the policy was shown, and what it was told. The number is that of NumPy on the same 64 × 64 view.

# %%
figure, axes = plt.subplots(1, len(percents), figsize=(2.2 * len(percents), 2.6))
for axis, card, percent in zip(axes, cards, percents, strict=False):
    shown = card.images[1].pixels
    axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
    axis.set_title(f"{percent} %: {card.turns[1].observation}", fontsize=9)
    axis.axis("off")
    assert card.turns[1].observation.startswith(f"level {shown[shown.shape[0] // 2, shown.shape[1] // 2]}")
plt.tight_layout()
plt.show()

# %% [markdown]
# A policy comes to call a tool by itself through training: put turns like these into the SFT stage (a teacher, as in
# `medvista_jax/data/teachers.py`), then let GRPO sort out when it pays.
#
# In a file of its own (`my_tools.py`) the same two functions serve every door: `python -m medvista_jax.tools serve
# --tools my_tools.py` over HTTP, `python -m medvista_jax.text parse --tools my_tools.py` for other people's
# transcripts, `experiments/sample_trajectories.py --tools …` for sampling. A tool that cannot be compiled (a model
# behind HTTP, OCR) is a host tool: `medvista_jax.tools.host.declare`.
