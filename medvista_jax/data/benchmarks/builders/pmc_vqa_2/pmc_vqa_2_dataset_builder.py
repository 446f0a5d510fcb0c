"""PMC-VQA, version 2, for tensorflow-datasets."""

from medvista_jax.data.benchmarks.builder import BenchmarkBuilder


class Builder(BenchmarkBuilder):
    """PMC-VQA, version 2."""
