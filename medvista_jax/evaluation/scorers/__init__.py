"""Scores replies to medical VQA questions: VQA-RAD, SLAKE, PathVQA, PMC-VQA, MMMU, MedXpertQA.

:func:`score` is the default. :data:`STRICT` has upstream's own scorers by name, faults included, to compare with
published numbers; where the two differ is written in ``differences.py``.
``python -m medvista_jax.evaluation.scorers --list`` prints them all.
"""

from medvista_jax.evaluation.scorers.fixed import Item, Score, score
from medvista_jax.evaluation.scorers.strict import STRICT
from medvista_jax.evaluation.scorers.totals import Total, summary

__all__ = ["STRICT", "Item", "Score", "Total", "score", "summary"]
