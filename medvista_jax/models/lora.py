"""Low-rank adapters (LoRA, arXiv 2106.09685) through qwix on any family.

    model = with_lora(model, LoRAConfig(rank=16, alpha=32.0))
    params = init_lora(model, params, key)
    state = start(params, (TRAINABLE,), optimizer, key)      # only the adapters move, in SFT and in GRPO
    model, params = merge(model, params)                     # a plain model again

A module with kernel W (``[in, out]``) gives ``x W + (alpha / rank) · x A B``. A (``[in, rank]``) begins uniform in
±1/√in, as PEFT's does, and B (``[rank, out]``) with zeros, so that nothing changes at the start. Both lie beside the
kernel as ``kernel_lora_a`` and ``kernel_lora_b``; the base's leaves are the very same arrays as before.

Adapters are float32 whatever the base is. Over a bfloat16 base, ``x A B`` is computed in float32 and what a module
gives is rounded to bfloat16 once: activations and cache keep the base's dtype.

GRPO's loss reads the image features of the rollout; where adapters in the tower or the connector shall learn, set
``train_vision`` (:class:`medvista_jax.learning.grpo_config.GRPOConfig`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Collection
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import qwix

from medvista_jax.core.types import Array, Params
from medvista_jax.models.adaptable import Adaptable
from medvista_jax.models.names import flatten, nest

TRAINABLE = r"/kernel_lora_[ab]$"
"""For :func:`medvista_jax.learning.state.start`: every adapter and nothing else."""

A, B = "/kernel_lora_a", "/kernel_lora_b"
_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # uniform in ±1/√in

Model = TypeVar("Model", bound=Adaptable)


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """What is adapted, and how.

    Attributes:
      rank: inner width of the adapters.
      alpha: the adapters' product counts ``alpha / rank`` times.
      modules: regular expression on whole paths of modules with a kernel, ``top/…/name``. ``vision/.*|decoder/.*``
        adapts both ends.
    """

    rank: int = 16
    alpha: float = 32.0
    modules: str = r"decoder/layer_\d+/(q|k|v|o|gate|up|down)"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, not {self.rank}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be positive, not {self.alpha}")
        try:
            re.compile(self.modules)
        except re.error as error:
            raise ValueError(f"modules {self.modules!r} is no regular expression: {error}") from None


@dataclasses.dataclass(frozen=True)
class LoRA:
    """The adapters of one model; see :class:`medvista_jax.models.adaptable.Adaptable`.

    Attributes:
      rank, alpha: as in :class:`LoRAConfig`.
      modules: paths of the adapted modules, in the order of the model's parameters.
    """

    rank: int
    alpha: float
    modules: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def __call__(self, module: nn.Module, top: str) -> nn.Module:
        inside = tuple(path.removeprefix(f"{top}/") for path in self.modules if path.startswith(f"{top}/"))
        return _adapted(module, inside, self.rank, self.alpha) if inside else module


class _Provider(qwix.LoraProvider):
    """qwix's adapters; the result has the dtype that it has without them."""

    def dot_general(self, lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None, **kwargs):
        out = super().dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type, **kwargs)
        return out.astype(preferred_element_type or jnp.result_type(lhs, rhs))


@functools.lru_cache(maxsize=64)
def _adapted(module: nn.Module, paths: tuple[str, ...], rank: int, alpha: float) -> nn.Module:
    """The module with adapters at the given places; qwix makes a class each time, hence the cache."""
    places = "|".join(map(re.escape, paths))
    rule = qwix.LoraRule(module_path=places, rank=rank, alpha=alpha, lora_a_initializer=_INIT)
    return qwix.apply_lora_to_model(module, _Provider([rule]))


def with_lora(model: Model, config: LoRAConfig) -> Model:
    """The model with adapters, of the same class and protocol. Its parameters come from :func:`init_lora`.

    Raises:
      ValueError: the model has adapters already, or the expression matches no module.
    """
    known = modules(model)
    chosen = [path for path in known if re.fullmatch(config.modules, path)]
    if not chosen:
        kinds = sorted({re.sub(r"\d+", "N", path) for path in known})
        raise ValueError(f"modules {config.modules!r} matches no module; the model has {', '.join(kinds)}")
    return with_modules(model, config.rank, config.alpha, chosen)


def with_modules(model: Model, rank: int, alpha: float, paths: Collection[str]) -> Model:
    """:func:`with_lora` for modules that are known by their paths.

    Raises:
      ValueError: the model has adapters already.
    """
    if model.adapters is not None:
        raise ValueError("the model has adapters already; merge them first")
    lora = LoRA(rank, float(alpha), tuple(path for path in modules(model) if path in paths))
    return dataclasses.replace(model, adapters=lora)


def init_lora(model: Model, params: Params, key: Array) -> Params:
    """The parameters with fresh float32 adapters; every other leaf is the same array, not a copy.

    Raises:
      ValueError: the model has no adapters, the parameters have some already, or the rank fits badly
        (:func:`with_adapters`).
    """
    shapes = adapter_shapes(model)
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    zeros = nn.initializers.zeros
    fresh = {path: (_INIT if path.endswith(A) else zeros)(keys[path], shape) for path, shape in shapes.items()}
    return with_adapters(model, params, fresh)


def merge(model: Model, params: Params) -> tuple[Model, Params]:
    """The plain model, its kernels ``W + (alpha / rank) · A B`` summed in float32 and rounded to their own dtype.

    Raises:
      ValueError: the model has no adapters, or the parameters lack some.
    """
    pairs = adapters_of(model, params)
    flat = {path: leaf for path, leaf in flatten(params).items() if not path.endswith((A, B))}
    for path, (a, b) in pairs.items():
        flat[f"{path}/kernel"] = _merged(flat[f"{path}/kernel"], a, b, model.adapters.scale)
    return dataclasses.replace(model, adapters=None), nest(flat)


@jax.jit
def _merged(kernel: Array, a_ER: Array, b_RF: Array, scale: float) -> Array:
    delta_EF = jnp.matmul(a_ER.astype(jnp.float32), b_RF.astype(jnp.float32), precision="highest")
    return (kernel.astype(jnp.float32) + scale * delta_EF.reshape(kernel.shape)).astype(kernel.dtype)


def modules(model: Adaptable) -> tuple[str, ...]:
    """Paths of all modules that can be adapted: those with a kernel."""
    return tuple(path.removesuffix("/kernel") for path in _shapes(model) if path.endswith("/kernel"))


def adapter_shapes(model: Adaptable) -> dict[str, tuple[int, ...]]:
    """``path -> shape`` of the adapters that the model reads.

    Raises:
      ValueError: it has none, or its ``init`` does not pass its modules through :meth:`Adaptable.module`.
    """
    if not isinstance(model.adapters, LoRA):
        raise ValueError("the model has no adapters; make it with with_lora")
    shapes = {path: shape for path, shape in _shapes(model).items() if path.endswith((A, B))}
    lost = [path for path in model.adapters.modules if path + A not in shapes]
    if lost:
        raise ValueError(f"no adapters were made for {', '.join(lost)}: does init pass each module through module()?")
    return shapes


def adapters_of(model: Adaptable, params: Params) -> dict[str, tuple[Array, Array]]:
    """A and B of every adapted module.

    Raises:
      ValueError: the model has no adapters, or the parameters lack some.
    """
    flat, shapes = flatten(params), adapter_shapes(model)
    lost = [path for path in shapes if path not in flat]
    if lost:
        raise ValueError(f"the parameters lack the adapters {_some(lost)}; init_lora or load_adapters adds them")
    return {path: (flat[path + A], flat[path + B]) for path in model.adapters.modules}


def with_adapters(model: Adaptable, params: Params, adapters: dict[str, Array]) -> Params:
    """The parameters with these leaves added.

    Raises:
      ValueError: some are there already, or an adapter has the shape of its kernel and the parameters are not float32.
    """
    flat = flatten(params)
    there = [path for path in flat if path.endswith((A, B))]
    if there:
        raise ValueError(f"the parameters have adapters already ({_some(there)})")
    # Where a kernel is cast before its product, qwix knows it by its shape alone, and without a word leaves the
    # adapters out if one of them has the same shape.
    plain = all(leaf.dtype == jnp.float32 for leaf in flat.values())
    for path, leaf in adapters.items():
        kernel = path.removesuffix(A).removesuffix(B) + "/kernel"
        if not plain and leaf.shape == flat[kernel].shape:
            raise ValueError(
                f"rank {model.adapters.rank} is a side of {kernel} {flat[kernel].shape}, which qwix can only "
                "adapt where all parameters are float32; choose another rank or convert the parameters"
            )
    return nest({**flat, **adapters})


@functools.lru_cache(maxsize=64)
def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in flatten(jax.eval_shape(model.init, jax.random.key(0))).items()}


def _some(names: list[str], count: int = 5) -> str:
    """The first of many names."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
