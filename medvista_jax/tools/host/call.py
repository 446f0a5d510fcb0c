"""What a host tool is, what it is asked and what it replies. Plain Python and NumPy; nothing here is traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.core.types import Fault

TEXT_BYTES = 2048
"""Bytes of a reply that the policy reads, unless the tool says otherwise; the rest is cut off."""


class ToolFailed(Exception):
    """Raised by a tool that knows why it cannot answer; not tried again.

    Args:
      message: for the operator.
      fault: what the policy reads.
    """

    def __init__(self, message: str, fault: Fault = Fault.TOOL_FAILED):
        super().__init__(message)
        self.fault = fault


class TryAgain(Exception):
    """Raised by a tool whose next attempt may succeed, such as one whose server is busy.

    Args:
      message: for the operator.
      after_s: seconds that must pass first, None for the tool's own backoff.
      fault: what the policy reads when no attempt is left.
    """

    def __init__(self, message: str, after_s: float | None = None, fault: Fault = Fault.TOOL_FAILED):
        super().__init__(message)
        self.after_s = after_s
        self.fault = fault


@dataclasses.dataclass(frozen=True, eq=False)
class HostCall:
    """One call of one row.

    Attributes:
      tool: name.
      image: uint8 [Y, X, 3], the image that the call names as displayed (window and effects applied), at the full
        resolution of its region; read-only, for rows may share it. None for tools that look at no image.
      arguments: as :func:`medvista_jax.core.tool_spec.python_values` gives them, defaults filled in.
    """

    tool: str
    image: np.ndarray | None
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.image is None:
            return
        shape, dtype = self.image.shape, self.image.dtype
        if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ValueError(f"call of {self.tool}: the image must be uint8 [Y, X, 3], not {dtype} {list(shape)}")
        image = self.image.view()
        image.flags.writeable = False
        object.__setattr__(self, "image", image)


@dataclasses.dataclass(frozen=True)
class HostReply:
    """What came of a call.

    Attributes:
      text: the tool's answer; empty when there is a fault, whose text is the observation then.
      fault: NONE, or why there is no answer.
    """

    text: str
    fault: Fault = Fault.NONE


Run = Callable[[Sequence[HostCall]], Sequence["str | Exception"]]
"""Answers one batch of calls of one tool, in order; an exception in place of a text concerns that call alone."""


@dataclasses.dataclass(frozen=True)
class HostTool:
    """A spec beside a function of the host.

    Attributes:
      spec: as of any other tool.
      run: answers a list of calls. It runs in a thread, several at a time unless ``batched``.
      timeout_s: seconds of one attempt. A thread cannot be killed: what has not answered by then is left behind
        and its call is not tried again.
      retries: attempts after the first; for :class:`TryAgain`, ``ConnectionError`` and ``TimeoutError`` only.
      backoff_s: pause before the first retry; it doubles with each further one.
      batched: ``run`` gets all calls of a batch at once instead of one.
      text_bytes: UTF-8 bytes of the longest reply; a longer one is cut.
    """

    spec: ToolSpec
    run: Run
    timeout_s: float = 30.0
    retries: int = 0
    backoff_s: float = 0.5
    batched: bool = False
    text_bytes: int = TEXT_BYTES

    def __post_init__(self) -> None:
        if self.timeout_s <= 0 or self.retries < 0 or self.backoff_s < 0 or self.text_bytes < 1:
            raise ValueError(
                f"host tool {self.name}: timeout_s and text_bytes must be positive, retries and backoff_s not negative"
            )

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def family(self) -> str:
        return self.spec.family
