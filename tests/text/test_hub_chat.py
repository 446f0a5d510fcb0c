"""Prompts and observations against ``apply_chat_template`` of transformers on the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from medvista_jax.core.types import Fault
from medvista_jax.environment.build import build_environment
from medvista_jax.text.chat import (
    ERRORS,
    FINAL_TEXT,
    INSTRUCTION,
    Frame,
    Said,
    build_observations,
    render,
    render_prompt,
    tool_block,
)
from medvista_jax.text.hub_chat import HubChat, ImageSymbols, load_chat, load_tokenizer
from medvista_jax.text.tokenizer import TAGS, Tokenizer
from medvista_jax.tools.registry import DEFAULT_TOOLS
from tests.text.hub_folders import (
    INTERNVL3,
    QWEN2_5_TEXT,
    QWEN2_5_VL,
    QWEN3_VL,
    THINKING,
    TRIMMING,
    write_folder,
)
from tests.text.specs import FIVE, TWO

QUESTIONS = [
    "Which side?",
    "",
    " \n leading and trailing \n\n",
    "größer 日本 🩻 ½ e\u0301 it's\t12345",
    "<b>bold</b> {{ messages }} {% if %} 0zQuestion0",
    "\n",
]
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
WITH_TOOLS = {  # templates that show tools and take images
    "qwen3": ("qwen3", QWEN3_VL),
    "qwen2.5": ("qwen2.5", QWEN3_VL),
    "internvl": ("internvl", QWEN3_VL.replace(IMAGE, "<IMG_CONTEXT>")),
    "thinking": ("qwen3", THINKING),
    "trimming": ("qwen3", TRIMMING),
}


def expanded(folder: Path, text: str, image: ImageSymbols, counts: list[int]) -> list[int]:
    """Ids of a template's text with each image written out, as the processors do it: in the text."""
    pieces = text.split(image.symbol)
    assert len(pieces) == len(counts) + 1
    for at, count in enumerate(counts):
        pieces[at] += image.opening + image.symbol * count + image.closing
    return AutoTokenizer.from_pretrained(folder)("".join(pieces), add_special_tokens=False)["input_ids"]


def hub_text(folder: Path, messages: list[dict], tools=(), template: str | None = None) -> str:
    return AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages,
        tools=[tool.schema() for tool in tools] or None,
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
    )


def user(question: str, images: int) -> dict:
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": question}]}


SYSTEM = {"role": "system", "content": INSTRUCTION}


@pytest.mark.parametrize("name", WITH_TOOLS)
@pytest.mark.parametrize("tools", [TWO, FIVE, ()], ids=["two tools", "five tools", "no tools"])
def test_prompts_are_the_templates(tmp_path, name, tools):
    family, template = WITH_TOOLS[name]
    folder = write_folder(tmp_path, family, jinja=template)
    chat = load_chat(folder)
    for question in QUESTIONS:
        for counts in ([3], [2, 5], []):
            text = hub_text(folder, [SYSTEM, user(question, len(counts))], tools)
            prompt = chat.prompt(question, counts, tools)
            assert prompt.tokens == expanded(folder, text, chat.image, counts)


def test_ids_without_images_are_those_of_apply_chat_template(tmp_path):
    folder = write_folder(tmp_path, "qwen3", jinja=QWEN3_VL)
    schemas = [tool.schema() for tool in TWO]
    ids = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [SYSTEM, {"role": "user", "content": "Why?"}], tools=schemas, add_generation_prompt=True, tokenize=True
    )["input_ids"]
    assert load_chat(folder).prompt("Why?", [], TWO).tokens == ids


def test_the_qwen_style_is_what_such_a_template_writes(tmp_path):
    """Our own words for tools, against the template's."""
    chat = load_chat(write_folder(tmp_path, "qwen3", jinja=QWEN3_VL))
    for tools in (TWO, ()):
        assert render_prompt(chat.tokenizer, "Why?", [2], tools, "qwen") == chat.prompt("Why?", [2], tools)


@pytest.mark.parametrize("family", ["qwen3", "internvl"])
def test_where_the_embeddings_stand(tmp_path, family):
    chat = load_chat(write_folder(tmp_path, family, jinja=WITH_TOOLS[family][1]))
    prompt = chat.prompt("Why?", [3, 1, 2], TWO)
    symbol = chat.tokenizer.special[chat.image.symbol]
    assert [f for f in prompt.feature if f >= 0] == [0, 1, 2, 3, 6, 7]  # image * widest + k
    assert [f >= 0 for f in prompt.feature] == [token == symbol for token in prompt.tokens]


def test_qwen2_5_vl_has_two_templates(tmp_path):
    """Tools by the template of the tokenizer, which cannot write images; these by the template of the processor."""
    folder = write_folder(tmp_path, "qwen2.5", legacy=QWEN2_5_VL, config=QWEN2_5_TEXT)
    chat = load_chat(folder)
    messages = [SYSTEM, {"role": "user", "content": 2 * IMAGE + "Why?"}]
    text = hub_text(folder, messages, TWO, QWEN2_5_TEXT)
    assert chat.prompt("Why?", [3, 1], TWO).tokens == expanded(folder, text, chat.image, [3, 1])
    text = hub_text(folder, [SYSTEM, user("Why?", 2)], (), QWEN2_5_VL)
    assert chat.prompt("Why?", [3, 1]).tokens == expanded(folder, text, chat.image, [3, 1])


@pytest.mark.parametrize(("family", "template"), [("qwen2.5", QWEN2_5_VL), ("internvl", INTERNVL3)], ids=str)
def test_a_template_without_tools_gets_them_in_its_system_message(tmp_path, family, template):
    folder = write_folder(tmp_path, family, jinja=template)
    chat = load_chat(folder)
    system = {"role": "system", "content": INSTRUCTION + "\n\n" + tool_block(TWO)}
    for counts in ([3], [1, 4], []):
        text = hub_text(folder, [system, user("Why?", len(counts))])
        assert chat.prompt("Why?", counts, TWO).tokens == expanded(folder, text, chat.image, counts)


def test_internvl_in_full(tmp_path):
    chat = load_chat(write_folder(tmp_path, "internvl", jinja=INTERNVL3))
    prompt = chat.prompt("Why?", [2, 1], system="Look.")
    assert chat.tokenizer.decode(prompt.tokens) == (
        "<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n<img><IMG_CONTEXT><IMG_CONTEXT></img>\n"
        "<img><IMG_CONTEXT></img>\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_templates_own_system_message(tmp_path):
    chat = load_chat(write_folder(tmp_path, "qwen2.5", jinja=QWEN2_5_VL))
    text = chat.tokenizer.decode(chat.prompt("Why?", [], system=None).tokens)
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n")


def test_named_templates(tmp_path):
    """transformers asks ``tool_use`` where there are tools, ``default`` else; in the config and in a folder."""
    marked = QWEN3_VL.replace("# Tools", "# Things")
    folder = write_folder(
        tmp_path / "config",
        "qwen3",
        config=[{"name": "default", "template": QWEN3_VL}, {"name": "tool_use", "template": marked}],
    )
    apart = write_folder(tmp_path / "apart", "qwen3", jinja=QWEN3_VL)
    (apart / "additional_chat_templates").mkdir()
    (apart / "additional_chat_templates" / "tool_use.jinja").write_text(marked)
    for where in (folder, apart):
        chat = load_chat(where)
        for tools in (TWO, ()):
            text = hub_text(where, [SYSTEM, user("Why?", 1)], tools)
            assert ("# Things" in text) == bool(tools)
            assert chat.prompt("Why?", [2], tools).tokens == expanded(where, text, chat.image, [2])


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> dict[str, HubChat]:
    base = tmp_path_factory.mktemp("chats")
    made = {
        "qwen3": write_folder(base / "qwen3", "qwen3", jinja=QWEN3_VL),
        "two templates": write_folder(base / "two", "qwen2.5", legacy=QWEN2_5_VL, config=QWEN2_5_TEXT),
        "internvl": write_folder(base / "internvl", "internvl", jinja=INTERNVL3),
        "trimming": write_folder(base / "trimming", "qwen3", jinja=TRIMMING),
    }
    return {name: load_chat(folder) for name, folder in made.items()}


CHATS = ("qwen3", "two templates", "internvl", "trimming")
PARTS = [*TAGS, "<IMG_CONTEXT>", "<img>", "</img>", "<", "|im_end|>", "<|im_", "x", "\n", " ", "0zQuestion0"]


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=8))
def test_a_question_cannot_smuggle_tags(chats, name, parts):
    chat, question = chats[name], "".join(parts)
    prompt, plain = chat.prompt(question, [2], TWO), chat.prompt("x", [2], TWO)
    special = set(chat.tokenizer.special.values())
    assert [t for t in prompt.tokens if t in special] == [t for t in plain.tokens if t in special]
    assert [f for f in prompt.feature if f >= 0] == [0, 1]
    said = chat.tokenizer.decode(prompt.tokens)
    assert (question.strip() if name == "trimming" else question) in said


def test_a_question_cannot_steer_the_template(tmp_path):
    """A template that looks into the text of a message looks into the question with its tags, and no further."""
    obeying = "('system' if 'obey' in message.content | string else message.role)"
    sly = QWEN3_VL.replace("'<|im_start|>' ~ message.role", f"'<|im_start|>' ~ {obeying}")
    assert sly != QWEN3_VL
    chat = load_chat(write_folder(tmp_path, "qwen3", jinja=sly))
    assert chat.tokenizer.decode(chat.prompt("obey", [], ()).tokens).count("<|im_start|>user\nobey") == 1


@pytest.mark.parametrize("name", CHATS)
def test_any_vocabulary_fits_the_protocol(chats, name):
    assert isinstance(chats[name].tokenizer, Tokenizer)


CALL = '<tool_call>\n{"name": "zoom_in", "arguments": {"bbox_2d": [0, 0, 500, 500]}}\n</tool_call>'
SHOWN, MEAN = len(Fault), len(Fault) + 1
KINDS = [SHOWN, Fault.MALFORMED, Fault.NO_CALLS_LEFT, MEAN]
SAID = (Said("image {image}", True), Said("mean {0}!", False))  # ends with a mark that vocabularies join to a newline


def observed(chat: HubChat, frame: Frame, kind: int, final: bool) -> list[int]:
    templates = build_observations(chat.tokenizer, 2, frame, SAID)
    seven = np.array([7])
    shown = jax.jit(render)(templates, np.array([kind]), seven, seven[:, None].astype(np.float32), np.array([final]))
    tokens, valid, feature = (np.asarray(part)[0] for part in shown)
    symbol = chat.tokenizer.special[chat.image.symbol]
    assert tokens[feature >= 0].tolist() == ([symbol] * 2 if kind == SHOWN else [])
    return tokens[valid].tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("name", [*WITH_TOOLS, "two templates"])
def test_observations_are_the_templates_words_for_a_tool_message(tmp_path, name, kind, final):
    if name == "two templates":
        folder = write_folder(tmp_path, "qwen2.5", legacy=QWEN2_5_VL, config=QWEN2_5_TEXT)
    else:
        folder = write_folder(tmp_path, WITH_TOOLS[name][0], jinja=WITH_TOOLS[name][1])
    chat = load_chat(folder)
    text = ["", *(ERRORS[fault] for fault in list(Fault)[1:]), "image 7", "mean 7!"][kind] + FINAL_TEXT * final
    image = chat.frame.image_before.removesuffix(chat.image.opening) + chat.image.symbol
    image += chat.frame.image_after.removeprefix(chat.image.closing)
    parts = [{"type": "image"}, {"type": "text", "text": text}] if kind == SHOWN else text
    if name == "two templates":  # this one takes strings
        parts = image + text if kind == SHOWN else text
    asked = [SYSTEM, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": CALL}]
    whole = hub_text(folder, [*asked, {"role": "tool", "content": parts}], TWO, chat.tool_templates[-1])
    ids = expanded(folder, whole, chat.image, [2] if kind == SHOWN else [])
    turn = whole.partition(CALL)[0] + CALL
    assert ids == expanded(folder, turn, chat.image, []) + observed(chat, chat.frame, kind, final)


@pytest.mark.parametrize(("family", "template"), [("qwen2.5", QWEN2_5_VL), ("internvl", INTERNVL3)], ids=str)
def test_observations_of_a_template_without_words_for_tools(tmp_path, family, template):
    """A message of the user with Qwen's tags, in the words of the template."""
    folder = write_folder(tmp_path, family, jinja=template)
    chat = load_chat(folder)
    result = [
        {"type": "text", "text": "<tool_response>\n"},
        {"type": "image"},
        {"type": "text", "text": "image 7\n</tool_response>"},
    ]
    asked = [SYSTEM, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": CALL}]
    ids = expanded(folder, hub_text(folder, [*asked, {"role": "user", "content": result}]), chat.image, [2])
    turn = chat.prompt("Why?", []).tokens + chat.tokenizer.encode(CALL)
    assert ids == turn + observed(chat, chat.frame, SHOWN, False)


def test_the_words_around_an_image_are_encoded_with_their_neighbours(chats):
    chat = chats["qwen3"]
    frame = Frame("\n\n<tool>", "after", "\nView:<|vision_start|>", "<|vision_end|>\n\n")
    assert chat.tokenizer.encode("<tool>\n") != chat.tokenizer.encode("<tool>") + chat.tokenizer.encode("\n")
    text = "\n\n<tool>\nView:<|vision_start|><|image_pad|><|image_pad|><|vision_end|>\n\nimage 7after"
    assert observed(chat, frame, SHOWN, False) == chat.tokenizer.encode(text)


def test_frames_in_full(chats):
    turn = ("<|im_end|>\n<|im_start|>user\n<tool_response>\n", "\n</tool_response><|im_end|>\n<|im_start|>assistant\n")
    qwen = Frame(*turn, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    assert chats["qwen3"].frame == chats["two templates"].frame == qwen
    assert chats["internvl"].frame == Frame(*turn, "<img>", "</img>\n", "<IMG_CONTEXT>")


def test_the_qwen_style_is_the_frame_of_qwens_templates(chats):
    for name in ("qwen3", "two templates"):
        ours, theirs = (build_observations(chats[name].tokenizer, 3, style) for style in ("qwen", chats[name].frame))
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_the_words_of_a_tool_message_with_an_image_are_the_templates(tmp_path):
    """A template may write an image in another way there than in a message of the user."""
    view = "show(message.content) | replace('<|vision_start|>', 'View: <|vision_start|>') ~ '\\n</tool_response>'"
    own = QWEN3_VL.replace("show(message.content) ~ '\\n</tool_response>'", view)
    assert own != QWEN3_VL
    assert load_chat(write_folder(tmp_path, "qwen3", jinja=own)).frame.image_before == "View: <|vision_start|>"


@pytest.mark.parametrize("name", CHATS)
def test_an_environment_can_be_built(chats, name):
    chat = chats[name]
    environment = build_environment(
        chat.tokenizer, tuple(DEFAULT_TOOLS.values()), tokens_per_image=4, view_size=(56, 56), style=chat.frame
    )
    kind, three = np.asarray(environment.kind_J[:1]), np.array([3])
    tokens, valid, feature = render(environment.templates, kind, three, np.zeros((1, 1)), np.array([True]))
    text = chat.tokenizer.decode(np.asarray(tokens)[np.asarray(valid)])
    image = chat.frame.image_before + chat.frame.image_symbol * 4 + chat.frame.image_after
    assert text == f"{chat.frame.before}{image}image 3, answer now{chat.frame.after}"
    assert np.asarray(feature)[np.asarray(feature) >= 0].tolist() == [0, 1, 2, 3]


ELSE = "{%- elif message.role != 'system' -%}"
SHOW = "show(message.content) ~ '<|im_end|>"
REFUSING = QWEN3_VL.replace(ELSE, "{%- elif message.role == 'user' %}{{ raise_exception('no users here') }}" + ELSE)
TWICE = QWEN3_VL.replace(SHOW, "show(message.content) ~ " + SHOW)
NO_USERS = QWEN3_VL.replace(ELSE, "{%- elif message.role == 'assistant' -%}")
TWO_SYMBOLS = QWEN3_VL.replace(f"'{IMAGE}'", "2 * '<|image_pad|>'")
BLIND = QWEN3_VL.replace(f"'{IMAGE}'", "''")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (REFUSING, "the chat template fails on messages of system, user: no users here"),
        (TWICE, "does not show the text of the user's message exactly once"),
        (NO_USERS, "does not show the text of the user's message exactly once"),
        ("{% for", "the chat template fails on messages of system, user"),
        (TWO_SYMBOLS, r"wrote <\|image_pad\|> 2 times for 1 images"),
        (BLIND, r"wrote <\|image_pad\|> 0 times for 1 images"),
    ],
    ids=["refusing", "twice", "not at all", "no jinja", "two symbols", "no symbol"],
)
def test_templates_that_cannot_be_used(tmp_path, template, message):
    chat = load_chat(write_folder(tmp_path, "qwen3", jinja=template))
    with pytest.raises(ValueError, match=message):
        chat.prompt("Why?", [1])


@pytest.mark.parametrize("template", [TWO_SYMBOLS, BLIND], ids=["two symbols", "no symbol"])
def test_frames_that_cannot_be_used(tmp_path, template):
    with pytest.raises(ValueError, match=r"<.image_pad.> must stand there once"):
        _ = load_chat(write_folder(tmp_path, "qwen3", jinja=template)).frame


def test_a_loaded_tokenizer_is_as_wide_as_the_embedding(tmp_path):
    folder = write_folder(tmp_path, "qwen3", jinja=QWEN3_VL, text_config={"vocab_size": 700}, image_token_id=0)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 700 and tokenizer.token_bytes()[0].shape[0] == 700
    assert tokenizer.decode([tokenizer.pad_id]) == "" and tokenizer.pad == "<|endoftext|>"
    write_folder(tmp_path, "qwen3", vocab_size=800)
    assert load_tokenizer(folder).vocab_size == 800
    (folder / "config.json").unlink()
    assert load_tokenizer(folder).vocab_size == len(AutoTokenizer.from_pretrained(folder))


def test_the_image_symbol_that_the_config_names(tmp_path):
    folder = write_folder(tmp_path, "internvl", jinja=INTERNVL3)
    of = load_tokenizer(folder).special
    assert load_chat(folder).image == ImageSymbols("<IMG_CONTEXT>", "<img>", "</img>")
    (folder / "config.json").write_text(json.dumps({"image_token_id": of["<|image_pad|>"]}))
    assert load_chat(folder).image == ImageSymbols("<|image_pad|>")


def broken(folder: Path, name: str, content: str | None) -> Path:
    """A good folder with one file replaced or taken away."""
    write_folder(folder, "qwen3", jinja=QWEN3_VL)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    return folder


UNIGRAM = json.dumps({"added_tokens": [], "model": {"type": "Unigram"}, "decoder": None})
PIECES = json.dumps({"added_tokens": [], "model": {"type": "BPE"}, "decoder": {"type": "Metaspace"}})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "has no tokenizer.json. Copy it"),
        ("tokenizer.json", "{", "tokenizer.json is no JSON"),
        ("tokenizer.json", "{}", "tokenizer.json is no BPE tokenizer"),
        ("tokenizer.json", UNIGRAM, "tokenizer.json is no BPE tokenizer"),
        ("tokenizer.json", PIECES, "tokenizer.json is not byte-level"),
        ("tokenizer_config.json", "[", "tokenizer_config.json is no JSON"),
        ("chat_template.jinja", None, "has no chat template: no chat_template.jinja"),
        ("config.json", "nothing", "config.json is no JSON"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, name, content, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message) as caught:
        load_chat(broken(tmp_path, name, content))
    assert str(tmp_path) in str(caught.value)


def test_a_vocabulary_without_a_symbol_for_images(tmp_path):
    folder = write_folder(tmp_path, "qwen3", jinja=QWEN3_VL)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|image_pad|>", "<|picture|>"))
    with pytest.raises(ValueError, match="no symbol for an image"):
        load_chat(folder)
