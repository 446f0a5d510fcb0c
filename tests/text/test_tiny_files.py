"""The exported chat template beside the renderer that trained the model."""

import jinja2
import pytest

from medvista_jax.text.chat import CompactChat
from medvista_jax.text.tiny_files import TEMPLATE
from medvista_jax.text.tokenizer import SentencePieceTokenizer
from medvista_jax.tools.registry import ALL_TOOLS


def render(messages, tools=None):
    def fail(text):
        raise jinja2.TemplateError(text)

    template = jinja2.Environment().from_string(TEMPLATE)
    return template.render(messages=messages, tools=tools, add_generation_prompt=True, raise_exception=fail)


@pytest.mark.parametrize("names", [(), ("zoom_in",), ("zoom_in", "adjust_window", "distance")])
@pytest.mark.parametrize("images", [1, 2])
def test_the_template_is_the_compact_chat(names, images):
    tokenizer = SentencePieceTokenizer()
    chat, specs = CompactChat(tokenizer), [ALL_TOOLS[name].spec for name in names]
    question = "Which way do the stripes run?  vertical, horizontal"
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    text = render([{"role": "user", "content": content}], [spec.schema() for spec in specs] or None)
    prompt = chat.prompt(question, [1] * images, specs)
    assert tokenizer.decode(prompt.tokens) == text
    turns = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": "<tool_call>{}</tool_call>"},
        {"role": "tool", "content": [{"type": "image"}, {"type": "text", "text": "image 1"}]},
    ]
    frame = chat.frame
    image = frame.image_before + frame.image_symbol + frame.image_after
    expected = f"{text}<tool_call>{{}}</tool_call>{frame.before}{image}image 1{frame.after}"
    assert render(turns, [spec.schema() for spec in specs] or None) == expected


def test_a_system_message_is_refused():
    with pytest.raises(jinja2.TemplateError, match="lists the tools"):
        render([{"role": "system", "content": "be brief"}])
