"""``report.html``: trajectories to look at, in one file that loads nothing from anywhere.

Everything that a model or a data set wrote is escaped before a single tag of ours is added. As a second wall
the page carries a content security policy under which the browser runs only the script whose hash it names.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import importlib.resources
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medvista_jax.evaluation.tables import Protocol, Row, layout, protocol_lines

DISCLAIMER = (
    "Research software, not for clinical use. Where a question says “implanted”, the target was implanted "
    "into a real image; it is no finding of that patient."
)

SMALL_PIXELS = 160
"""Images narrower than this are magnified without smoothing."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_TAGS = re.compile(r"&lt;/?(think|tool_call|tool_response|answer|image)&gt;")


@dataclasses.dataclass(frozen=True)
class ReportImage:
    """An image of a trajectory.

    Attributes:
      caption: such as ``"original"`` or ``"zoom_in of image 0"``; its number is put before it.
      pixels: uint8 ``[Y, X]`` or ``[Y, X, 3]``.
      boxes: ``(x1, y1, x2, y2, label, kind)`` in 0…1000 of this image; kind ``"call"`` or ``"truth"``.
    """

    caption: str
    pixels: np.ndarray
    boxes: tuple[tuple[float, float, float, float, str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class ReportTurn:
    """A turn: what the policy wrote, and what came back.

    Attributes:
      text: decoded tokens of the turn, as they are.
      kind: ``"call"``, ``"answer"`` or ``"nothing"``.
      fault: name of the fault, ``None`` when the turn was carried out.
      observation: text that the policy read next, may be empty.
      tool: name of the tool called.
    """

    text: str
    kind: str
    fault: str | None = None
    observation: str = ""
    tool: str | None = None


@dataclasses.dataclass(frozen=True)
class ReportCard:
    """A question with one trajectory. ``rewards`` maps the terms to their values, in the order to show."""

    id: str
    family: str
    needs: str
    condition: str
    question: str
    answer: str
    truth: str
    correct: bool
    images: tuple[ReportImage, ...]
    turns: tuple[ReportTurn, ...]
    rewards: Mapping[str, float]


def write_report(
    path: str | Path,
    title: str,
    cards: Sequence[ReportCard],
    table_rows: Sequence[Row],
    facts: Mapping[str, str],
    curves_png: Path | None = None,
    protocol: Protocol | None = None,
) -> None:
    """Writes the page.

    Args:
      path: the HTML file; its folder is made.
      title: heading of the page.
      cards: in the order to show.
      table_rows: rows of :mod:`medvista_jax.evaluation.tables`; no table when empty.
      facts: shown below the heading, such as run, date, configuration.
      curves_png: the picture of :mod:`medvista_jax.evaluation.plots`, put inside the page.
      protocol: stands below the table.

    Raises:
      ValueError: pixels of another type or shape, a box of another kind, curves that are no PNG.
    """
    css, js = _resource("report.css"), _resource("report.js")
    digest = base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>",
        _header(title, table_rows, facts, curves_png, protocol),
        _filters(cards),
        "<main>",
        '<div class="legend"><span><span class="key"></span>box of a tool call, with its turn</span>'
        '<span><span class="key truth"></span>where the answer lies (the policy never sees it)</span></div>',
        *(_card(number, card) for number, card in enumerate(cards, start=1)),
        '<p class="nothing" hidden>No question fits these filters.</p>',
        f"</main>\n<footer>{escape(DISCLAIMER)}</footer>",
        f"<script>{js}</script>\n</body>\n</html>\n",
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts), encoding="utf-8")


def escape(text: object) -> str:
    """Text that is safe between tags and inside quoted attributes.

    Control characters become their visible symbols (U+2400…) and lone surrogates the replacement character:
    neither can stand in an HTML file, and both are worth seeing in a model's output.
    """
    shown = "".join(
        chr(0x2400 + ord(c))
        if ord(c) < 32 and c not in "\n\t"
        else "\N{REPLACEMENT CHARACTER}"
        if 0xD800 <= ord(c) < 0xE000
        else c
        for c in str(text)
    )
    return html.escape(shown, quote=True)


def escape_turn(text: str) -> str:
    """:func:`escape`, then the tags of the dialect as coloured spans."""
    return _TAGS.sub(lambda match: f'<span class="tag {match[1]}">{match[0]}</span>', escape(text))


def png_data_uri(pixels: np.ndarray) -> str:
    """``data:image/png;base64,…`` of uint8 pixels ``[Y, X]`` or ``[Y, X, 3]``."""
    pixels = np.asarray(pixels)
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if pixels.dtype != np.uint8 or not fits or pixels.size == 0:
        raise ValueError(f"pixels must be uint8 [Y, X] or [Y, X, 3], not {pixels.dtype}{list(pixels.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _resource(name: str) -> str:
    return importlib.resources.files("medvista_jax.evaluation").joinpath(name).read_text(encoding="utf-8")


def _header(
    title: str,
    rows: Sequence[Row],
    facts: Mapping[str, str],
    curves_png: Path | None,
    protocol: Protocol | None,
) -> str:
    parts = [
        f'<header class="top">\n<h1>{escape(title)}</h1>',
        f'<div class="notice-wrap"><div class="notice">{escape(DISCLAIMER)}</div></div>',
    ]
    if facts:
        items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        parts.append(f'<dl class="facts">{items}</dl>')
    if rows:
        heads, body = layout(rows)
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
        lines = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in line) + "</tr>" for line in body)
        below = protocol_lines(rows, protocol) if protocol else ["Accuracy in percent (95 % Wilson interval)."]
        notes = "".join(f'<p class="fine">{escape(line)}</p>' for line in below)
        parts.append(
            f'<section><h2>Results</h2>\n<div class="scroll" tabindex="0" role="region" aria-label="Results">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>{notes}</section>"
        )
    if curves_png is not None:
        data = Path(curves_png).read_bytes()
        if not data.startswith(PNG_SIGNATURE):
            raise ValueError(f"{curves_png} is no PNG")
        uri = "data:image/png;base64," + base64.b64encode(data).decode()
        parts.append(
            '<details class="curves"><summary>Training curves</summary>'
            f'<img alt="Training curves of every stage" src="{uri}"></details>'
        )
    return "\n".join([*parts, "</header>"])


def _filters(cards: Sequence[ReportCard]) -> str:
    def select(name: str, label: str, values: Iterable[str]) -> str:
        # The value is set off by a letter, so that an empty name is not mistaken for "all".
        options = "".join(f'<option value="={escape(v)}">{escape(v)}</option>' for v in dict.fromkeys(values))
        return f'<label>{label}<select name="{name}"><option value="">all</option>{options}</select></label>'

    return "\n".join(
        [
            '<nav class="bar" aria-label="Filters"><form hidden>',
            select("family", "Family", sorted(card.family for card in cards)),
            select("needs", "Needs", sorted(card.needs for card in cards)),
            select("outcome", "Outcome", ("right", "wrong")),
            select("condition", "Condition", (card.condition for card in cards)),
            '<button type="reset">Show all</button>',
            '<span class="count" role="status"></span>',
            '<span class="count keys"><kbd>j</kbd> <kbd>k</kbd> next, previous</span>',
            "</form></nav>",
        ]
    )


def _card(number: int, card: ReportCard) -> str:
    outcome = "right" if card.correct else "wrong"
    mark = "✓ right" if card.correct else "✗ wrong"
    chips = "".join(
        f'<span class="chip">{escape(text)}</span>'
        for text in (card.family, f"needs {card.needs}", card.condition, card.id)
    )
    data = f'data-family="{escape(card.family)}" data-needs="{escape(card.needs)}"'
    try:
        figures = "".join(_figure(k, image) for k, image in enumerate(card.images))
    except ValueError as error:
        raise ValueError(f"card {card.id!r}: {error}") from error
    turns = "".join(_turn(k, turn) for k, turn in enumerate(card.turns, start=1))
    rewards = "".join(
        f'<span class="chip">{escape(name.replace("_", " "))}<b>{_signed(value)}</b></span>'
        for name, value in card.rewards.items()
    )
    return "\n".join(
        [
            f'<article id="card-{number}" class="{outcome}" tabindex="-1" {data} data-outcome="{outcome}" '
            f'data-condition="{escape(card.condition)}" aria-label="Question {number}, {outcome}">',
            f'<div class="head"><a href="#card-{number}">#{number}</a>'
            f'<span class="badge {outcome}">{mark}</span>{chips}</div>',
            f'<p class="question">{escape(card.question)}</p>',
            f'<div class="verdict"><div><span>answer</span><b>{escape(card.answer) or "—"}</b></div>'
            f"<div><span>truth</span><b>{escape(card.truth)}</b></div></div>",
            f'<div class="body"><div class="images">{figures}</div>',
            f'<div>{turns}<div class="rewards">{rewards}</div></div></div>\n</article>',
        ]
    )


def _figure(number: int, image: ReportImage) -> str:
    uri = png_data_uri(image.pixels)
    height, width = image.pixels.shape[:2]
    small = ' class="small"' if width < SMALL_PIXELS else ""
    boxes = "".join(_box(*box) for box in image.boxes)
    size = "original" if number == 0 or image.caption.startswith("original") else "view"
    caption = escape(image.caption)
    tag = f'<img{small} width="{width}" height="{height}" src="{uri}" alt="image {number}: {caption}">'
    return (
        f'<figure class="{size}"><span class="frame">{tag}{boxes}</span>'
        f"<figcaption><b>image {number}</b> {caption} · {width}×{height}</figcaption></figure>"
    )


def _box(x1: float, y1: float, x2: float, y2: float, label: str, kind: str) -> str:
    if kind not in ("call", "truth"):
        raise ValueError(f"a box is of kind 'call' or 'truth', not {kind!r}")
    # A faulty call may name any numbers; what of it lies inside the image is drawn.
    numbers = [float(v) for v in (x1, y1, x2, y2)]
    if any(math.isnan(number) for number in numbers):
        return ""
    edges = [min(1000.0, max(0.0, number)) / 10 for number in numbers]
    left, top, right, bottom = edges
    size = f"width:{max(0, right - left):.4g}%;height:{max(0, bottom - top):.4g}%"
    place = f"left:{left:.4g}%;top:{top:.4g}%;{size}"
    # The name stands outside, so that it hides nothing of a small box; at the image's edge it has to come in.
    edge = " edge" if (top < 8 if kind == "call" else bottom > 92) else ""
    name = f"<i>{escape(label)}</i>" if label else ""
    return f'<span class="box {kind}{edge}" style="{place}">{name}</span>'


def _turn(number: int, turn: ReportTurn) -> str:
    what = {"call": "tool call", "answer": "answer", "nothing": "no action"}.get(turn.kind.lower(), turn.kind)
    tool = f" · {escape(turn.tool)}" if turn.tool else ""
    fault = f' · <span class="fault-name">{escape(turn.fault.replace("_", " ").lower())}</span>' if turn.fault else ""
    reply = ""
    if turn.observation:
        state = " fault" if turn.fault else ""
        reply = f'<pre class="observation{state}">{escape_turn(turn.observation)}</pre>'
    return (
        f'<div class="turn"><div><b>turn {number}</b> · {escape(what)}{tool}{fault}</div>'
        f"<pre>{escape_turn(turn.text)}</pre>{reply}</div>"
    )


def _signed(value: float) -> str:
    return f"{float(value):+.3g}".replace("-", "\N{MINUS SIGN}") if value else "0"
