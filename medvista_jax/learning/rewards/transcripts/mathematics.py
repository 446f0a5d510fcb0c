"""Whether two texts name the same number, as the package math-verify (0.9) decides it.

With the package installed it is asked. Without it, a reader of plain numbers, percentages and sums of them stands in,
which agrees with it where no LaTeX is involved; LaTeX beyond a number, a fraction or a letter is skipped with a reason.

The rules that surprise, and that rewards built on it inherit: a number counts only at the start, after white space or
after "=", so ``<answer>5</answer>`` holds none and ``<answer> 5 </answer>`` does; a number within 50 characters after
the word "answer" (a tag's name will do) goes before all others, else the last number of the text counts, even one of
the thought; letters are never compared.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from fractions import Fraction

from medvista_jax.core.conformance import Skipped

_NUMBER = (
    r"(?<!\d)(?:(?P<whole>-?[1-9]\d{0,2}(?:[ ,]\d{3})+|-?\d+)(?P<part>\.\d+|(?<!\d[ ,]\d{3}),\d+)?|(?P<bare>\.\d+))"
    r"(?P<percent>\s*(?:%|[Pp]ercent(?:age)?|[Pp]ct))?"
)
_SIGNS = r"+\-*×/^()÷"
_SUM = rf"(?P<sum>-?\(?-?\d[\d.\s{_SIGNS}]*[{_SIGNS}][\d.\s{_SIGNS}]+\)?)"
_BEFORE, _AFTER = r"(?:^|\s|=)(?:\*\*)?", r"(?:\*\*)?(?:\.|,|:|\s|\)|\$|$)"
_MONEY = r"[$£¥฿\u20a0-\u20cf]?"
_EITHER = rf"(?:(?:{_BEFORE}{_SUM}{_AFTER})|(?:{_BEFORE}{_MONEY}{_NUMBER}))"
_LEVELS = [
    [re.compile(rf"(?i:final answer is)\:?\s*{_EITHER}\.?\s?I hope")],
    [re.compile(rf"(?i:final answer.{{0,100}}?)\s+is\:?{_EITHER}")],
    [re.compile(rf"(?i:answer):(?:.{{0,100}}=\s*|.{{0,50}}?){_EITHER}(?!\s*=)")],
    [re.compile(rf"(?i:answer)(?:.{{0,100}}=\s*|.{{0,50}}?){_EITHER}(?!\s*=)")],
    [re.compile(rf"(?:{_BEFORE}{_SUM}{_AFTER})"), re.compile(rf"(?:{_BEFORE}{_MONEY}{_NUMBER})")],
]
"""From the phrases that are believed first to any number at all."""

_LATEX = re.compile(r"\\boxed|\\frac|(?<![\\\d])\$[^\n$]+\$|\\\(|\\\[|\s\[[^\n\]\[]+\]\s")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclasses.dataclass(frozen=True)
class _Value:
    """A number: ``exact`` unless it was written with decimals, ``percent`` where a sign of percent followed, ``summed``
    where it was written as a sum, product …
    """

    value: Fraction | None  # None: of a division by 0, which equals nothing
    exact: bool
    percent: bool = False
    summed: bool = False

    @property
    def plain(self) -> Fraction:
        return self.value / 100 if self.percent else self.value


def same(gold: str, said: str) -> bool:
    """Whether math-verify holds the two texts to be equal.

    Raises:
      Skipped: for LaTeX without the package.
    """
    try:
        from math_verify import parse, verify
    except ModuleNotFoundError:
        return _equal(_read(gold), _read(said))
    return bool(verify(parse(gold), parse(said)))


def _read(text: str) -> tuple[_Value | None, str]:
    """The number that counts, and the text it was read from (of the first candidate, readable or not)."""
    boxes = _BOXED.findall(text)
    if len(boxes) == len(_LATEX.findall(text)) == text.count("}") == 1:
        return _inside_box(boxes[0])
    if _LATEX.search(text):
        raise Skipped("needs the package math-verify, which reads LaTeX: pip install math-verify")
    fallback = ""
    for patterns in _LEVELS:
        found = [match for pattern in patterns for match in pattern.finditer(text)]
        for match in sorted(found, key=lambda match: (match.end(), -match.start()), reverse=True):
            value, words = _value_of(match)
            fallback = fallback or words
            if value is not None:
                return value, fallback
    return None, fallback


def _inside_box(content: str) -> tuple[_Value | None, str]:
    content = content.strip()
    if re.fullmatch(r"-?\d+(\.\d+)?", content):
        return _Value(Fraction(content), "." not in content), content
    if re.fullmatch(r"[A-Za-z]", content):
        return None, content.lower()  # one symbol whatever its case
    raise Skipped("needs the package math-verify, which reads LaTeX: pip install math-verify")


def _value_of(match: re.Match[str]) -> tuple[_Value | None, str]:
    groups = match.groupdict()
    whole, part = groups.get("whole") or "", groups.get("part") or groups.get("bare") or ""
    if whole or part:
        digits = whole.translate(str.maketrans("", "", ", ")).lstrip("0") or "0"
        words = digits + part.replace(",", ".")
        return _Value(Fraction(words), not part, bool(groups.get("percent"))), words
    words = groups["sum"]
    return _sum(words), words


def _sum(words: str) -> _Value | None:
    """The value of an expression of numbers; None where it is none."""
    try:
        tree = ast.parse(words.replace("\n", " ").replace("^", "**").strip(), mode="eval")
        return _Value(_evaluate(tree.body), "." not in words, summed=True)
    except ZeroDivisionError:
        return _Value(None, exact=True, summed=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError):
        return None


def _evaluate(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _evaluate(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if not isinstance(node, ast.BinOp):
        raise ValueError("no arithmetic")
    one, other = _evaluate(node.left), _evaluate(node.right)
    match node.op:
        case ast.Add():
            return one + other
        case ast.Sub():
            return one - other
        case ast.Mult():
            return one * other
        case ast.Div():
            return one / other
        case ast.Pow() if other.denominator == 1 and abs(other) <= 64 and abs(one) <= 10**9:
            return one**other
        case ast.Pow() if one > 0 and abs(other) <= 64:
            return Fraction(float(one) ** float(other))
    raise ValueError("no arithmetic")


def _equal(gold: tuple[_Value | None, str], said: tuple[_Value | None, str]) -> bool:
    if gold[1].strip() and gold[1].strip() == said[1].strip():
        return True
    one, other = gold[0], said[0]
    if one is None or other is None or one.value is None or other.value is None:
        return False
    if not (one.exact and other.exact):
        return round(one.plain, 6) == round(other.plain, 6)
    if one.value.denominator == other.value.denominator == 1 and not (one.summed or other.summed):
        return one.value == other.value  # 9 % equals 9
    return one.plain == other.plain
