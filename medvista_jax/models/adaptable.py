"""The one place through which every model applies its Linen modules, so that adapters can come in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn

Adapters = Callable[[nn.Module, str], nn.Module]
"""``(module, top) -> module`` over the same ``params[top]`` and further leaves; hashable by value, since models are
static arguments of ``jit``. :class:`medvista_jax.models.lora.LoRA` is one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptable:
    """Base of all models.

    Attributes:
      adapters: what is put around each module; ``None`` leaves them as they are.
    """

    adapters: Adapters | None = None

    def module(self, module: nn.Module, top: str) -> nn.Module:
        """``module`` as it is to be initialised and applied over ``params[top]``; its ``__call__`` may be adapted."""
        return module if self.adapters is None else self.adapters(module, top)
