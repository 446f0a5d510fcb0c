import base64
import hashlib
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from medvista_jax.evaluation.plots import draw_curves
from medvista_jax.evaluation.report import ReportCard, ReportImage, ReportTurn, escape_turn, write_report
from medvista_jax.evaluation.tables import make_row

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "' onmouseover='alert(1)",
    "</pre></article></main>",
    "<!-- ]]> --> &lt;b&gt; &amp;",
    "naïve 脳 🧠 \u202e flipped",
    "https://example.com/x.png url(//evil)",
)
VOID = {"meta", "img", "br", "link", "input"}


class Page(html.parser.HTMLParser):
    """Elements with attributes and text; fails on tags that do not nest."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self.stack = [], [], []
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> inside {self.stack}"
        self.stack.pop()

    def handle_data(self, data):
        if not self.stack or self.stack[-1] not in ("script", "style"):
            self.text.append(data)

    def find(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def card(text="plain", correct=True, boxes=(), pixels=None):
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8) if pixels is None else pixels
    return ReportCard(
        id=text,
        family=text,
        needs=text,
        condition=text,
        question=text,
        answer=text,
        truth=text,
        correct=correct,
        images=(
            ReportImage(text, pixels, boxes or ((100, 200, 300, 400, text, "call"),)),
            ReportImage(text, np.zeros((4, 4, 3), np.uint8)),
        ),
        turns=(
            ReportTurn(text, "call", "EMPTY_BOX", text, text),
            ReportTurn(f"<think>{text}</think><answer>{text}</answer>", "answer"),
        ),
        rewards={"format": 1.0, text: -0.5},
    )


def build(tmp_path, cards, **more):
    path = tmp_path / "run" / "report.html"
    write_report(path, more.pop("title", "A run"), cards, more.pop("rows", []), more.pop("facts", {}), **more)
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


def all_rows():
    return [
        make_row(
            condition="sft",
            needs="zoom",
            tools=True,
            decoding="greedy",
            correct=9,
            n=10,
            calls=9,
            seed=0,
            seconds=1,
        )
    ]


def test_hostile_text_stays_text(tmp_path):
    clean = [tag for tag, _ in build(tmp_path, [card()] * len(HOSTILE))[1].elements]
    source, page = build(
        tmp_path,
        [card(text) for text in HOSTILE],
        title=HOSTILE[0],
        facts={text: text for text in HOSTILE},
    )
    # Not one element more than the page of harmless cards has, but for the facts and the filters' options.
    extra = ("option", "dl", "div", "dt", "dd")
    assert [t for t, _ in page.elements if t not in extra] == [t for t in clean if t not in extra]
    assert len(page.find("script")) == 1
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
    text = "".join(page.text)
    for hostile in HOSTILE:
        # question, answer, truth, family, condition, id, observation, turn, twice in a turn, tool, box, …
        assert text.count(hostile) >= 10
    assert {article["data-family"] for article in page.find("article")} == set(HOSTILE)
    assert {f"={h}" for h in HOSTILE} < {option["value"] for option in page.find("option")}
    assert source.count("</script>") == 1


def test_characters_that_no_page_may_hold_are_shown():
    assert escape_turn("a\x00b\x1b[31m\ud800c\n\t") == "a␀b␛[31m\N{REPLACEMENT CHARACTER}c\n\t"


def test_tags_of_the_dialect_are_coloured_after_escaping():
    assert escape_turn('<tool_call>{"a": "<b>"}</tool_call>') == (
        '<span class="tag tool_call">&lt;tool_call&gt;</span>{&quot;a&quot;: &quot;&lt;b&gt;&quot;}'
        '<span class="tag tool_call">&lt;/tool_call&gt;</span>'
    )


def test_every_image_is_a_png_inside_the_page(tmp_path):
    curves = tmp_path / "curves.png"
    draw_curves([{"stage": "sft", "step": 0, "loss": 1.0}], curves)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    source, page = build(tmp_path, [card(pixels=pixels), card()], rows=all_rows(), curves_png=curves)
    images = page.find("img")
    assert len(images) == 5
    decoded = []
    for image in images:
        prefix, data = image["src"].split(",", 1)
        assert prefix == "data:image/png;base64" and image["alt"]
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as picture:
            assert picture.format == "PNG"
            decoded.append(np.asarray(picture))
    assert np.array_equal(decoded[1], pixels)
    # Nothing is loaded from anywhere.
    assert not re.search(r"(?:https?:)?//[a-z0-9]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", source), re.I)
    assert not page.find("link") and not page.find("iframe") and "@import" not in source
    assert all("src" not in script for script in page.find("script"))


def test_the_policy_allows_our_script_alone(tmp_path):
    source, page = build(tmp_path, [card()])
    script = re.search(r"<script>(.*?)</script>", source, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in page.find("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_cards_carry_what_the_filters_read(tmp_path):
    _, page = build(tmp_path, [card("a"), card("b", correct=False)])
    assert [article["data-outcome"] for article in page.find("article")] == ["right", "wrong"]
    assert {select["name"] for select in page.find("select")} == {"family", "needs", "outcome", "condition"}
    text = " ".join(page.text)
    for word in ("not for clinical use", "✓ right", "✗ wrong", "empty box", "−0.5", "turn 2"):
        assert word in text


def test_boxes_lie_where_they_should(tmp_path):
    boxes = (
        (100, 200, 300, 450, "turn 1", "call"),
        (0, 0, 10, 10, "target", "truth"),
        (900, -50, 5000, 500, "too large", "call"),
        (800, 800, 700, 900, "empty", "call"),
        (float("nan"), 0, 1, 1, "none", "call"),
    )
    _, page = build(tmp_path, [card(boxes=boxes)])
    places = [s["style"] for s in page.find("span") if s.get("class", "").startswith("box")]
    assert places == [
        "left:10%;top:20%;width:20%;height:25%",
        "left:0%;top:0%;width:1%;height:1%",
        "left:90%;top:0%;width:10%;height:50%",
        "left:80%;top:80%;width:0%;height:10%",
    ]


def test_the_table_and_an_empty_page(tmp_path):
    _, page = build(tmp_path, [], rows=all_rows())
    assert "SFT with tools" in page.text and any("90.0 (" in text for text in page.text)
    assert build(tmp_path, [])[1].find("article") == []


def test_wrong_input_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"card 'plain': pixels must be uint8 .* not float64\[3,?.*4\]"):
        build(tmp_path, [card(pixels=np.zeros((3, 4)))])
    with pytest.raises(ValueError, match="'call' or 'truth', not 'other'"):
        build(tmp_path, [card(boxes=((0, 0, 1, 1, "", "other"),))])
    (tmp_path / "curves.png").write_text("no picture")
    with pytest.raises(ValueError, match="is no PNG"):
        build(tmp_path, [], curves_png=tmp_path / "curves.png")
