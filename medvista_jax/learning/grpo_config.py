"""Settings of a GRPO step and its relatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from medvista_jax.learning.accumulate import Bucket
from medvista_jax.learning.advantages import ADVANTAGES
from medvista_jax.learning.kl import ESTIMATORS, K1
from medvista_jax.learning.losses import LOSSES, NORMALISATIONS
from medvista_jax.models.blocks import REMAT
from medvista_jax.rollout.slots import SlotConfig

TURN_ADVANTAGE = "rloo_turns"


@dataclasses.dataclass(frozen=True)
class GRPOConfig:
    """Static settings of a step. The defaults are GRPO with one on-policy update a rollout, tokens averaged over the
    batch and no KL.

    Attributes:
      group: trajectories a prompt.
      reward: name in :data:`medvista_jax.learning.rewards.PRESETS`.
      clip_low, clip_high: bounds of the ratio, 1 - low … 1 + high.
      buckets: packed slots and image slots of a chunk of the update, ascending; the whole trajectory where none fits.
      chunk: rows of the update at a time; a divisor of the rows of a minibatch.
      advantage: name in :data:`medvista_jax.learning.advantages.ADVANTAGES`, or ``"rloo_turns"``: leave-one-out with
        credit turn by turn.
      turn_discount: γ of ``"rloo_turns"``.
      loss: ``"clip"`` (PPO), ``"gspo"``, ``"gspo_token"`` or ``"cispo"``; see :mod:`medvista_jax.learning.losses`.
      dual_clip: c > 1 of the dual clip, for ``loss="clip"``; None: off.
      normalisation: how tokens are averaged, see :func:`medvista_jax.learning.losses.row_weights`.
      kl: ``"none"``, ``"k1"`` (subtracted from the reward), ``"k2"`` or ``"k3"`` (added to the loss); all but the
        first need a reference, see :mod:`medvista_jax.learning.kl`.
      kl_coefficient: β of either.
      entropy_coefficient: of the entropy bonus, in nats a token at temperature 1.
      mask_truncated: episodes without an answer carry no loss.
      masked_rows_count: whether rows that carry no loss still count in their group's statistics.
      tis_bound: C of truncated importance sampling; None: off. With it the ratio is taken to the training forward's
        own log-probabilities at the rollout's parameters.
      minibatches, epochs: the rows of a rollout are shuffled and split in minibatches, an optimizer update each, and
        this so many times over. ``TrainState.step`` and the optimizer's schedule count updates, not rollouts.
      rounds: dynamic sampling (DAPO, arXiv 2503.14476): the batch holds ``rounds · P`` prompts, and P of them are
        played at a time until P groups with variance are found. 1: all are played, flat groups stay.
      train_vision: the views are encoded again under the gradient; needed where the tower or the connector learns.
      remat: what decoder blocks keep for the gradient: ``"none"`` keeps all, ``"full"`` recomputes
        all; see :data:`medvista_jax.models.blocks.REMAT`.
      scan_layers: the training forward is a loop over the decoder's layers, which compiles one for all of them
        (:mod:`medvista_jax.models.stacked`); for large models. All layers must learn alike.
      slots: play with fewer rows than episodes, each row going on to the next (:mod:`medvista_jax.rollout.slots`); pays
        where the lengths of turns and episodes spread. None: all episodes side by side, turn by turn.

    Raises:
      ValueError: a name is unknown or a number out of its range.
    """

    group: int = 8
    reward: str = "vista_r1"
    clip_low: float = 0.2
    clip_high: float = 0.2
    buckets: tuple[Bucket, ...] = (Bucket(64, 1), Bucket(112, 2), Bucket(176, 3))
    chunk: int = 16
    advantage: str = "grpo"
    turn_discount: float = 1.0
    loss: str = "clip"
    dual_clip: float | None = None
    normalisation: str = "token"
    kl: str = "none"
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    mask_truncated: bool = False
    masked_rows_count: bool = True
    tis_bound: float | None = None
    minibatches: int = 1
    epochs: int = 1
    rounds: int = 1
    train_vision: bool = False
    remat: str = "none"
    scan_layers: bool = False
    slots: SlotConfig | None = None

    def __post_init__(self) -> None:
        _one_of("advantage", self.advantage, (*ADVANTAGES, TURN_ADVANTAGE))
        _one_of("loss", self.loss, LOSSES)
        _one_of("normalisation", self.normalisation, NORMALISATIONS)
        _one_of("kl", self.kl, ("none", *ESTIMATORS))
        _one_of("remat", self.remat, ("none", *REMAT))
        for name in ("group", "chunk", "minibatches", "epochs", "rounds"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        _require(self.dual_clip is None or self.dual_clip > 1, "dual_clip", self.dual_clip, "must be above 1")
        if self.dual_clip is not None and self.loss != "clip":
            raise ValueError(f"dual_clip belongs to loss 'clip', not to {self.loss!r}; leave it out")
        _require(self.tis_bound is None or self.tis_bound > 0, "tis_bound", self.tis_bound, "must be positive")

    @property
    def updates(self) -> int:
        """Optimizer updates a rollout."""
        return self.minibatches * self.epochs

    @property
    def kl_in_reward(self) -> bool:
        return self.kl == K1

    @property
    def kl_in_loss(self) -> bool:
        return self.kl not in ("none", K1)


def _one_of(field: str, value: str, names: Collection[str]) -> None:
    if value not in names:
        raise ValueError(f"{field} {value!r} is unknown; there are {', '.join(names)}")


def _require(holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"{field} {rule}, not {value}")
