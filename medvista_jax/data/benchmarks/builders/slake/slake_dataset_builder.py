"""SLAKE, for tensorflow-datasets."""

from medvista_jax.data.benchmarks.builder import BenchmarkBuilder


class Builder(BenchmarkBuilder):
    """SLAKE."""
