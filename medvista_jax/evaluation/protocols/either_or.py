"""The options of closed questions, which neither VQA-RAD nor SLAKE lists.

MedVLThinker had a language model (GPT-4o) write them, with the instruction: yes and no as "Yes", "No"; otherwise what
question and answer name, in their own phrasing and order, the answer among them (UCSC-VLAA/MedVLThinker@a3163b1,
``data_process/extract_options.py``). Here they are read off by rule, or stand in :data:`OPTIONS` where no rule would
do, so that everyone gets the same. Checked on the test splits: none of VQA-RAD's 272 and SLAKE's 416 is left without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_OR = re.compile(r"\bor\b", re.IGNORECASE)
_LISTED = re.compile(r"(?:which|where)\b[^,]*,(.*)", re.IGNORECASE | re.DOTALL)
_LETTERS = "ABCDEFGH"


def _key(question: str) -> str:
    return " ".join(question.casefold().split()).rstrip(" ?.")


_WRITTEN = {
    # VQA-RAD, test: its 21 closed questions that are not answered by yes or no.
    "Are there multiple or just 1 metastatic focus?": "multiple|one",
    "Is the colon more prominent on the patient's right or left side?": "right|left",
    "Is the heart size in this image smaller or larger than if the image was taken AP?": "smaller|larger",
    "Is this supratentorial or infratentorial?": "supratentorial|infratentorial",
    "Is this an MRI or a CT scan?": "MRI|CT scan",
    "Is the lesion on the left or right side of the brain?": "left|right",
    "Is the patient a female or male?": "female|male",
    "Is this patient male or female?": "male|female",
    "Is the lesion on the left or right?": "left|right",
    "Are the structures in the pancreas cystic or solid?": "cystic|solid",
    "Is this image normal or abnormal?": "normal|abnormal",
    "Is the gastric bubble shown on the left or right side of the patient?": "Left side|Right side",
    "Are pleural opacities located on the left, right, or both sides of the lung?": "left|right|both",
    "Are the pleural opacities bilateral or unilateral?": "bilateral|unilateral",
    "Is this an axial or saggital view of the brain?": "axial|saggital",
    "Is this a T1 weighted, T2 weighted, or FLAIR image?": "T1 weighted|T2 weighted|FLAIR",
    "Is there hypoinflation or hyperinflation of the lung": "hypoinflation|hyperinflation",
    "Are the small bubbles of air seen normal or abnormal?": "normal|abnormal",
    "The small bubbles of air seen in the lumen are normal or abnormal?": "normal|abnormal",
    "Is this a CT or an MRI?": "CT|MRI",
    "Was a CT or MRI used to take the above image?": "CT|MRI",
    # SLAKE, test, English: those that no "Which …, X or Y?" is.
    "Is this a T1 weighted or T2 weighted MRI image?": "T1|T2",
    "Is the abnormality hyperdense or hypodense?": "hyperdense|hypodense",
    "Is the brain enhancing tumor hyperdense or hypodense?": "hyperdense|hypodense",
}

OPTIONS: Mapping[str, tuple[str, ...]] = {
    _key(question): tuple(options.split("|")) for question, options in _WRITTEN.items()
}


def is_yes_no(answer: str) -> bool:
    """Whether a benchmark's answer is yes or no, whatever the case of letters."""
    return answer.strip().lower() in ("yes", "no")


def names_options(question: str) -> bool:
    """Whether a question says "or". With :func:`is_yes_no` this is how VQA-RAD's label CLOSED can be told from the
    hub's rows, which have lost it: on the test split it is right for all 451 (272 closed, 179 open).
    """
    return bool(_OR.search(question))


def options_of(question: str, answer: str) -> dict[str, str] | None:
    """Options by letter.

    Args:
      question: closed.
      answer: the benchmark's; an answer that the question does not name becomes the last option, as upstream has it.

    Returns:
      None where the question names none that could be told.
    """
    if is_yes_no(answer):
        texts = ["Yes", "No"]
    else:
        texts = list(OPTIONS.get(_key(question), ()) or _listed(question))
        if not texts:
            return None
        if answer.strip().casefold() not in (text.casefold() for text in texts):
            texts.append(answer.strip())
    return dict(zip(_LETTERS, texts, strict=False))


def _listed(question: str) -> list[str]:
    """What stands behind the first comma of "Which is the biggest, lung,liver or heart?"."""
    found = _LISTED.match(question.strip())
    if not found or not names_options(found[1]):
        return []
    parts = re.split(r"\s*,\s*(?:or\b)?\s*|\s+or\s+", found[1].strip(" ?.\n"), flags=re.IGNORECASE)
    return [part.strip() for part in parts if part.strip()][: len(_LETTERS) - 1]


def letter_of(answer: str, options: Mapping[str, str]) -> str:
    """The letter of an answer that is among the options, whatever the case of letters."""
    form = answer.strip().casefold()
    return next(letter for letter, text in options.items() if text.strip().casefold() == form)
