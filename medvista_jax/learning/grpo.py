"""Group relative policy optimisation (GRPO, arXiv 2402.03300) and its relatives: rollout, reward, advantage and update
in one program. What a step is made of is chosen by :class:`medvista_jax.learning.grpo_config.GRPOConfig`."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

from medvista_jax.core.types import AnswerKey, Array, ImageBank, Params, Question, Trajectory
from medvista_jax.environment.gym import Environment
from medvista_jax.learning.accumulate import Extras, Metrics, accumulate, map_slots
from medvista_jax.learning.advantages import ADVANTAGES, group_statistics, per_token, turn_leave_one_out
from medvista_jax.learning.dynamic import find_groups
from medvista_jax.learning.grpo_config import TURN_ADVANTAGE, GRPOConfig
from medvista_jax.learning.kl import ESTIMATORS, k1, turn_penalty
from medvista_jax.learning.losses import (
    mean_over,
    row_weights,
    score_tokens,
    surrogate,
    token_ratio,
    truncated_weight,
)
from medvista_jax.learning.masks import loss_rows, only_rows
from medvista_jax.learning.placement import computed, hold, policy_params
from medvista_jax.learning.remat import with_remat
from medvista_jax.learning.rewards import PRESETS, Reward, RewardTerms
from medvista_jax.learning.state import FlatParams, TrainState, apply_gradients, join
from medvista_jax.learning.vision import render_slots, require_frozen, slot_features
from medvista_jax.models.stacked import unstack_layers
from medvista_jax.models.vlm import Features, VisionLanguageModel
from medvista_jax.rollout.loop import rollout
from medvista_jax.rollout.sampling import Sampling
from medvista_jax.rollout.slots import rollout_slots
from medvista_jax.text.constraint import Constraint

_SHUFFLE = 2**31 - 1
"""Folded into a step's key for the order of its minibatches; prompts and rounds fold in numbers from 0 up."""

_OF_THE_FIRST_UPDATE = ("logprob_mismatch_mean", "logprob_mismatch_max")
"""Metrics that compare the training forward with the rollout at the *same* parameters: those before any update."""
_LARGEST = ("ratio_max", "longest")


def chunk_loss(
    model: VisionLanguageModel,
    config: GRPOConfig,
    frozen: FlatParams,
    temperature: Array,
    tokens: Array,
    trainable: FlatParams,
    trajectory: Trajectory,
    extras: Extras,
    constraint: Constraint | None = None,
) -> tuple[Array, tuple[Metrics, Metrics]]:
    """The loss of some rows, each token weighted by its row's share of the batch.

    Args:
      tokens: how many tokens of the whole batch carry loss; metrics are means over them.
      extras: ``"images"``: the rollout's image features, or pixels with ``config.train_vision``; ``"advantage_BR"``;
        ``"weight_B"`` of :func:`medvista_jax.learning.losses.row_weights`; under ``"slots"``, as far as they are
        needed, ``"reference"`` and ``"old"`` log-probabilities.
    """
    params = join(hold(model, trainable), frozen)
    scores = score_tokens(
        with_remat(model, config.remat),
        params,
        trajectory,
        slot_features(model, params, extras["images"], config.train_vision),
        temperature,
        constraint,
        entropy_gradient=config.entropy_coefficient != 0.0,
    )
    sampled_BS, behaviour_BS = trajectory.sampled_BS, trajectory.logprobs_BS
    before, now_BS = extras.get("slots", {}), jax.lax.stop_gradient(scores.logprob_BS)
    # With a single update the policy before it is the policy.
    old_BS = behaviour_BS if config.tis_bound is None else before.get("old", now_BS)
    gain_of = surrogate(config.loss, config.clip_low, config.clip_high, config.dual_clip)
    advantage_BS = per_token(extras["advantage_BR"], trajectory.turn_BS)
    gain_BS, clipped_BS = gain_of(scores.logprob_BS, old_BS, advantage_BS, sampled_BS)

    mean = lambda values_BS: jnp.sum(jnp.where(sampled_BS, values_BS, 0.0)) / tokens  # noqa: E731
    gap_BS = jnp.abs(now_BS - behaviour_BS)
    sums = {
        "clip_fraction": mean(clipped_BS),
        "entropy": mean(scores.entropy_BS),
        "logprob_mismatch_mean": mean(gap_BS),
    }
    maxima = {"logprob_mismatch_max": jnp.max(jnp.where(sampled_BS, gap_BS, 0.0))}
    if config.updates > 1 or config.tis_bound is not None or config.loss != "clip":
        ratio_BS = token_ratio(now_BS, old_BS)
        sums["ratio_mean"] = mean(ratio_BS)
        maxima["ratio_max"] = jnp.max(jnp.where(sampled_BS, ratio_BS, 0.0))
    if config.tis_bound is not None:
        weight_BS = truncated_weight(old_BS, behaviour_BS, config.tis_bound)
        gain_BS *= weight_BS
        sums["tis_weight_mean"] = mean(weight_BS)
    loss_BS = -gain_BS
    if config.kl_in_loss:
        kl_BS = ESTIMATORS[config.kl](scores.logprob_BS, before["reference"])
        loss_BS += config.kl_coefficient * kl_BS
        sums["kl"] = mean(kl_BS)
    if config.entropy_coefficient != 0.0:
        loss_BS -= config.entropy_coefficient * scores.entropy_BS
    loss = jnp.sum(jnp.where(sampled_BS, loss_BS, 0.0) * extras["weight_B"][:, None])
    return loss, ({"loss": loss, **sums}, maxima)


def rollout_metrics(trajectory: Trajectory, terms: RewardTerms, group: int) -> Metrics:
    """Scalars that describe a batch of trajectories."""
    turns_BR = trajectory.turns
    taken_BR = jnp.arange(turns_BR.kind_BR.shape[1])[None, :] < trajectory.turns_B[:, None]
    total_PG = terms.total_B.reshape(-1, group)
    return {
        "reward": jnp.mean(terms.total_B),
        **{f"reward_{name}": jnp.mean(term_B) for name, term_B in terms.terms.items()},
        "accuracy": jnp.mean(terms.correct_B),
        "calls_per_question": jnp.mean(trajectory.calls_B.astype(jnp.float32)),
        "faults": mean_over((turns_BR.fault_BR > 0).astype(jnp.float32), taken_BR),
        "truncated": jnp.mean(trajectory.truncated_B.astype(jnp.float32)),
        **token_counts(trajectory),
        "flat_groups": jnp.mean((jnp.max(total_PG, axis=1) == jnp.min(total_PG, axis=1)).astype(jnp.float32)),
    }


def token_counts(trajectory: Trajectory) -> Metrics:
    """Tokens that the policy read and wrote, over all rows: float32 scalars.

    ``sampled_tokens`` is what it said. What it was given counts apart: text, and embeddings of images, each by prompt
    (``prompt_…``, once a row though a group shares its prefill) and by observation (``observed_…``).
    """
    said_BS, image_BS = trajectory.sampled_BS, trajectory.valid_BS & (trajectory.feature_BS >= 0)
    slots_S = jnp.arange(said_BS.shape[1])
    first_B1 = jnp.min(jnp.where(said_BS, slots_S[None], said_BS.shape[1]), axis=1, keepdims=True)
    prompt_BS = trajectory.valid_BS & (slots_S[None] < first_B1)
    observed_BS = trajectory.valid_BS & ~prompt_BS & ~said_BS
    count = lambda mask_BS: jnp.sum(mask_BS).astype(jnp.float32)  # noqa: E731
    return {
        "sampled_tokens": count(said_BS),
        "prompt_text_tokens": count(prompt_BS & ~image_BS),
        "prompt_image_tokens": count(prompt_BS & image_BS),
        "observed_text_tokens": count(observed_BS & ~image_BS),
        "observed_image_tokens": count(observed_BS & image_BS),
    }


def reward_of(config: GRPOConfig) -> Reward:
    """Raises ValueError for a name that no preset has."""
    if config.reward not in PRESETS:
        raise ValueError(f"reward {config.reward!r} is unknown; there are {', '.join(PRESETS)}")
    return PRESETS[config.reward]


def counted_rows(config: GRPOConfig, trajectory: Trajectory, terms: RewardTerms) -> Array | None:
    """bool ``[B]``, rows of which a group's statistics are made; None where all count."""
    return None if config.masked_rows_count else loss_rows(trajectory, terms, config.mask_truncated)


def earned(terms: RewardTerms) -> Array:
    """float32 ``[B]``: the reward of an episode and of its turns."""
    return terms.total_B if terms.turn_BR is None else terms.total_B + jnp.sum(terms.turn_BR, axis=1)


def advantages(config: GRPOConfig, trajectory: Trajectory, terms: RewardTerms, penalty_BR: Array | None) -> Array:
    """The advantage of every turn of every row, float32 ``[B, R]``; the same for all turns but with ``"rloo_turns"``.

    Args:
      penalty_BR: float32, what is subtracted from each turn's reward; None: nothing.
    """
    counted_B = counted_rows(config, trajectory, terms)
    shape = trajectory.turns.kind_BR.shape
    if config.advantage == TURN_ADVANTAGE:
        turn_BR = jnp.zeros(shape, jnp.float32) if terms.turn_BR is None else terms.turn_BR
        turn_BR = turn_BR if penalty_BR is None else turn_BR - penalty_BR
        return turn_leave_one_out(
            turn_BR, terms.total_B, trajectory.turns_B, config.group, config.turn_discount, counted_B
        )
    reward_B = earned(terms) if penalty_BR is None else earned(terms) - jnp.sum(penalty_BR, axis=1)
    advantage_B = ADVANTAGES[config.advantage](reward_B, config.group, counted_B)
    return jnp.broadcast_to(advantage_B[:, None], shape)


def require_inputs(config: GRPOConfig, state: TrainState, reference: FlatParams | None, bank: ImageBank | None) -> None:
    """Raises ValueError where the settings and what was handed in do not go together."""
    if (config.kl != "none") != (reference is not None):
        raise ValueError(
            f"kl={config.kl!r} {'needs' if reference is None else 'does not use'} a reference: hand in "
            "reference=reference_of(state) of the start exactly where kl is 'k1', 'k2' or 'k3'"
        )
    if reference is not None and set(reference) != set(state.trainable):
        odd = sorted(set(reference) ^ set(state.trainable))
        raise ValueError(
            f"the reference must hold the trainable leaves and no others; {odd[0]!r} is in one of them only"
        )
    if not config.train_vision:
        require_frozen(state.trainable)
    elif bank is None:
        raise ValueError("train_vision=True needs the original images: hand in bank=question.bank")


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def grpo_update(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: GRPOConfig,
    environment: Environment,
    state: TrainState,
    trajectory: Trajectory,
    key: AnswerKey | None,
    sampling: Sampling,
    terms: RewardTerms | None = None,
    reference: FlatParams | None = None,
    bank: ImageBank | None = None,
) -> tuple[TrainState, Metrics]:
    """The second half of :func:`grpo_step`, from a trajectory that was played apart: where host tools took part.

    Args:
      trajectory: of :func:`medvista_jax.rollout.host_loop.rollout_with_host`, ``config.group`` rows a prompt, played
        with ``policy_params(model, state)`` and this ``sampling``.
      key: the truth, for ``config.reward``; None where ``terms`` are given.
      terms: rewards computed elsewhere, such as on the host; by default those of ``config.reward`` for ``key``.
      reference: values of the trainable leaves in the reference policy, see
        :func:`medvista_jax.learning.kl.reference_of`; the frozen leaves are shared.
      bank: the questions' original images, which ``config.train_vision`` reads.

    Raises:
      ValueError: the settings do not go together with the trainable leaves, the reference, the bank or the batch.
    """
    require_inputs(config, state, reference, bank)
    with jax.named_scope("reward"):
        terms = reward_of(config)(trajectory, key) if terms is None else terms
    images = render_slots(environment, bank, trajectory) if config.train_vision else trajectory.features_BILE
    metrics = rollout_metrics(trajectory, terms, config.group)
    episodes = trajectory.replace(features_BILE=None)
    with jax.named_scope("score"):
        slots = scores_before(model, config, environment, state, episodes, images, sampling, reference)
    penalty_BR = None
    if config.kl_in_reward:
        old_BS = slots.get("old", trajectory.logprobs_BS)
        turns = trajectory.turns.kind_BR.shape[1]
        penalty_BR = config.kl_coefficient * turn_penalty(old_BS, slots["reference"], trajectory.turn_BS, turns)
        metrics["kl"] = mean_over(k1(old_BS, slots["reference"]), trajectory.sampled_BS)
    extras = {"images": images, "advantage_BR": advantages(config, trajectory, terms, penalty_BR), "slots": slots}
    episodes = only_rows(episodes, loss_rows(trajectory, terms, config.mask_truncated))
    with jax.named_scope("update"):
        state, learnt = update_policy(model, optimizer, config, environment, state, episodes, extras, sampling)
    return state, learnt | metrics


def scores_before(
    model: VisionLanguageModel,
    config: GRPOConfig,
    environment: Environment,
    state: TrainState,
    trajectory: Trajectory,
    images: Features | Array,
    sampling: Sampling,
    reference: FlatParams | None,
) -> dict[str, Array]:
    """Log-probabilities ``[B, S]`` that stay as they are while the policy moves, as far as the settings need them.

    ``"reference"``: of the reference policy. ``"old"``: by the training forward at the rollout's parameters.
    """

    def score(trainable: FlatParams) -> Array:
        halves = (computed(model, half, config.scan_layers) for half in (trainable, state.frozen))
        params = join(*halves)

        def score_chunk(packed: Trajectory, extra: Extras) -> Array:
            features = slot_features(model, params, extra["images"], config.train_vision)
            scores = score_tokens(model, params, packed, features, sampling.temperature, environment.constraint)
            return scores.logprob_BS

        return map_slots(score_chunk, trajectory, {"images": images}, config.buckets, config.chunk)

    slots = {}
    if reference is not None:
        slots["reference"] = score(reference)
    if config.tis_bound is not None and (config.updates > 1 or config.kl_in_reward):
        slots["old"] = score(state.trainable)
    return slots


def update_policy(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: GRPOConfig,
    environment: Environment,
    state: TrainState,
    trajectory: Trajectory,
    extras: Extras,
    sampling: Sampling,
) -> tuple[TrainState, Metrics]:
    """All optimizer updates of one rollout. Metrics are means over them, the log-probability mismatch that of the
    first and maxima the largest.

    Raises:
      ValueError: ``config.minibatches`` does not divide the rows.
    """

    def update_once(state: TrainState, trajectory: Trajectory, extras: Extras) -> tuple[TrainState, Metrics]:
        mask_BS = trajectory.sampled_BS
        capacity = environment.turns * environment.turn_tokens
        tokens = jnp.maximum(jnp.sum(mask_BS), 1).astype(jnp.float32)
        loss = partial(
            chunk_loss,
            model,
            config,
            computed(model, state.frozen, config.scan_layers),
            sampling.temperature,
            tokens,
            constraint=environment.constraint,
        )
        extras = {**extras, "weight_B": row_weights(config.normalisation, mask_BS, capacity)}
        trainable = computed(model, state.trainable, config.scan_layers)
        gradients, metrics = accumulate(loss, trainable, trajectory, extras, config.buckets, config.chunk)
        gradients = unstack_layers(gradients)
        metrics["grad_norm"] = optax.tree.norm(gradients)
        return hold(model, apply_gradients(state, gradients, optimizer)), metrics

    if config.updates == 1:
        return update_once(state, trajectory, extras)

    def body(state: TrainState, rows_B: Array) -> tuple[TrainState, Metrics]:
        return update_once(state, *jax.tree.map(lambda leaf: leaf[rows_B], (trajectory, extras)))

    rows_UB = minibatch_rows(config, trajectory.tokens_BS.shape[0], jax.random.fold_in(state.key, state.step))
    state, metrics_U = jax.lax.scan(body, state, rows_UB)
    return state, {name: _over_updates(name, values_U) for name, values_U in metrics_U.items()}


def minibatch_rows(config: GRPOConfig, rows: int, step_key: Array) -> Array:
    """Which rows each update sees, every epoch in another order: int32 ``[updates, rows / minibatches]``."""
    if rows % config.minibatches:
        raise ValueError(f"{config.minibatches} minibatches do not divide a batch of {rows} rows; choose a divisor")
    keys_E = jax.random.split(jax.random.fold_in(step_key, _SHUFFLE), config.epochs)
    order_EB = jax.vmap(lambda key: jax.random.permutation(key, rows))(keys_E)
    return order_EB.reshape(config.updates, -1)


def _over_updates(name: str, values_U: Array) -> Array:
    if name in _OF_THE_FIRST_UPDATE:
        return values_U[0]
    return jnp.max(values_U) if name in _LARGEST else jnp.mean(values_U)


def play_episodes(
    model: VisionLanguageModel,
    params: Params,
    environment: Environment,
    config: GRPOConfig,
    sampling: Sampling,
    question: Question,
    key: Array,
) -> tuple[Trajectory, Metrics]:
    """``config.group`` episodes of each question, in the manner that ``config.slots`` says."""
    arguments = (model, params, environment, question, key, config.group, sampling)
    if config.slots is None:
        return rollout(*arguments), {}
    trajectory, stats = rollout_slots(*arguments, config.slots)
    return trajectory, {"slot_utilisation": stats.useful / stats.row_steps}


@partial(jax.jit, static_argnames=("model", "optimizer", "config"), donate_argnames=("state",))
def grpo_step(
    model: VisionLanguageModel,
    optimizer: optax.GradientTransformation,
    config: GRPOConfig,
    environment: Environment,
    state: TrainState,
    question: Question,
    key: AnswerKey,
    sampling: Sampling,
    reference: FlatParams | None = None,
) -> tuple[TrainState, Metrics]:
    """One step: everything from prefill to new parameters under one ``jit``.

    Args:
      model, optimizer, config: static.
      question, key: P prompts and their truth, or ``config.rounds · P`` of them; only the reward reads ``key``.
      reference: as in :func:`grpo_update`.

    Returns:
      The new state (the old one is donated) and scalar metrics.
    """
    step_key = jax.random.fold_in(state.key, state.step)
    params, bank = policy_params(model, state), question.bank if config.train_vision else None
    update = partial(grpo_update, model, optimizer, config, environment)
    episodes = partial(play_episodes, model, params, environment, config, sampling)
    if config.rounds == 1:
        trajectory, used = episodes(question, step_key)
        state, metrics = update(state, trajectory, key, sampling, reference=reference, bank=bank)
        return state, metrics | used

    def play(question: Question, key: AnswerKey, round_key: Array) -> tuple[Trajectory, RewardTerms]:
        trajectory, _ = episodes(question, round_key)
        return trajectory, reward_of(config)(trajectory, key)

    def varied(trajectory: Trajectory, terms: RewardTerms) -> Array:
        counted_B = counted_rows(config, trajectory, terms)
        return ~group_statistics(earned(terms), config.group, counted_B).flat_P1[:, 0]

    describe = partial(rollout_metrics, group=config.group)
    groups = find_groups(play, varied, describe, question, key, step_key, config.rounds)
    if bank is not None:
        bank = jax.tree.map(lambda leaf: leaf[jnp.maximum(groups.prompt_P, 0)], bank)
    state, metrics = update(state, groups.trajectory, None, sampling, groups.terms, reference, bank)
    return state, metrics | groups.metrics
