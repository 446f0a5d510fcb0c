"""Train `medvista-tiny` to think with medical images, end to end, on real images: perception, SFT, GRPO, table, report.

    python experiments/quickstart.py                        # one seed, at most ten minutes on two CPU cores
    python experiments/quickstart.py --seeds 3              # the table of the README
    python experiments/quickstart.py --teacher.shift 0 --out runs/unshifted
    python experiments/quickstart.py --preset short         # every stage, a few steps each: a smoke test
    python experiments/quickstart.py --resume               # go on after Ctrl-C

Writes RUN/table.json, table.md, report.html, curves.png and, for each seed, RUN/seed_K with metrics.jsonl, the
checkpoints of every stage and trajectories that `python -m medvista_jax replay` plays again bit for bit.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import sys
import time
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from medvista_jax import episodes
from medvista_jax.data import controls
from medvista_jax.data.atlas import CONCEPTS, Atlas
from medvista_jax.data.questions import QuestionPool
from medvista_jax.data.sources import MissingSource
from medvista_jax.data.teachers import TeacherConfig, teach
from medvista_jax.data.views import perception_batch
from medvista_jax.environment.build import build_environment
from medvista_jax.environment.gym import Environment
from medvista_jax.evaluation.cards import make_cards
