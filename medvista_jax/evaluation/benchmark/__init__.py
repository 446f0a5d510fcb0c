"""Runs a policy through a protocol's benchmarks: ``python -m medvista_jax.evaluation.benchmark``.

``policies`` says what a policy is and has one that reads replies from a file, ``hub_policy`` one for models of the hub,
``lines`` the files, ``run`` the loop, ``results`` the numbers, ``compare`` two or more runs.
"""

from medvista_jax.evaluation.benchmark.lines import BadRun
from medvista_jax.evaluation.benchmark.policies import Policy, RecordedPolicy, Reply
from medvista_jax.evaluation.benchmark.run import Settings, run_set

__all__ = ["BadRun", "Policy", "RecordedPolicy", "Reply", "Settings", "run_set"]
