"""Six medical benchmarks of questions about images, as one kind of question.

VQA-RAD, SLAKE, PathVQA, PMC-VQA (both versions), MMMU Health & Medicine and MedXpertQA-MM are read from the files of
the Hugging Face hub, prepared with tensorflow-datasets (tensorflow itself is not needed), and walked with grain::

    python -m medvista_jax.data.benchmarks prepare slake --from FOLDER

    questions = Questions("slake", "test")
    for item in Walk(questions, seed=0): ...

``specs`` says what there is and how many, ``rows`` makes questions of the hub's rows, ``hub_files`` reads its files,
``preparation`` writes and checks, ``reading`` reads back.
"""

from medvista_jax.data.benchmarks.item import BenchmarkItem
from medvista_jax.data.benchmarks.preparation import prepare
from medvista_jax.data.benchmarks.reading import Questions, Walk
from medvista_jax.data.benchmarks.specs import BENCHMARKS, Benchmark, Split
from medvista_jax.data.files.image import BadFile

__all__ = ["BENCHMARKS", "BadFile", "Benchmark", "BenchmarkItem", "Questions", "Split", "Walk", "prepare"]
