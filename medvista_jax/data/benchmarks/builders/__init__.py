"""One package for each benchmark: tensorflow-datasets takes a data set's name from its builder's module.

Names are those of :data:`medvista_jax.data.benchmarks.specs.BENCHMARKS`.
"""
