"""An ordinary function becomes a tool."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medvista_jax.core.tool_spec import Argument
from medvista_jax.core.types import Fault
from medvista_jax.tools.host.batch import run_batch
from medvista_jax.tools.host.call import HostCall, HostReply
from medvista_jax.tools.host.declare import host_tool

X, Y = Argument("x", "column, 0 to 1000"), Argument("y", "row, 0 to 1000")


@host_tool("Name the colour at a point.", X, Y, family="measure", timeout_s=1.0, retries=2)
def colour_at(image: Image.Image, x: int, y: int) -> str:
    return str(image.getpixel((x * (image.width - 1) // 1000, y * (image.height - 1) // 1000)))


@host_tool("Say a word.", Argument("word", "the word", "string", 1, 20))
def say(word: str) -> str:
    return f"{word}!"


def reply(tool, image, **arguments):
    return run_batch({tool.name: tool}, [HostCall(tool.name, image, arguments)])[0]


def test_the_function_is_called_with_a_pillow_image_and_its_arguments():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert reply(colour_at, pixels, x=1000, y=1000, image_index=4) == HostReply("(15, 16, 17)")
    assert reply(say, None, word="ah") == HostReply("ah!")


def test_the_spec_is_the_functions_name_and_gains_the_image_index():
    assert (colour_at.name, colour_at.family, colour_at.timeout_s, colour_at.retries) == (
        "colour_at",
        "measure",
        1.0,
        2,
    )
    parameters = colour_at.spec.schema()["function"]["parameters"]
    assert list(parameters["properties"]) == ["x", "y", "image_index"] and parameters["required"] == ["x", "y"]
    assert [argument.name for argument in say.spec.arguments] == ["word"]


def test_an_image_that_is_missing_is_a_fault():
    assert reply(colour_at, None, x=0, y=0).fault == Fault.NO_SUCH_IMAGE


def test_a_function_that_does_not_fit_its_arguments_is_refused_at_once():
    with pytest.raises(TypeError, match="host tool f: the function has no parameter for the argument 'x'"):

        @host_tool("", X)
        def f(image, y=0):
            return ""

    with pytest.raises(TypeError, match="host tool g: no Argument describes the parameter 'y'"):

        @host_tool("", X)
        def g(image, x, y):
            return ""

    with pytest.raises(TypeError, match="'image' is the image's own parameter"):

        @host_tool("", Argument("image", "an image"))
        def h(image):
            return ""


def test_keyword_arguments_and_defaults_are_allowed():
    @host_tool("", X, Y)
    def both(image, detail=3, **arguments):
        return f"{detail} {sorted(arguments.items())}"

    assert reply(both, np.zeros((1, 1, 3), np.uint8), x=1, y=2).text == "3 [('x', 1), ('y', 2)]"
