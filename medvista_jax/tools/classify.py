"""``classify``: what a model behind HTTP sees in an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medvista_jax.core.tool_spec import ToolSpec
from medvista_jax.tools.define import IMAGE_INDEX
from medvista_jax.tools.host.call import HostCall, HostTool, ToolFailed
from medvista_jax.tools.host.endpoint import Connection, Endpoint


def make_classify(
    endpoint: str | Endpoint,
    labels: Sequence[str] = (),
    description: str = "Classify an image.",
    name: str = "classify",
    retries: int = 2,
    backoff_s: float = 0.5,
) -> HostTool:
    """A tool that sends the image to a classifier and replies with its label.

    The ``"json"`` protocol is sent ``{"image": …, "arguments": {"labels": [...]}}`` and wants ``{"label": str}`` with
    an optional ``"score"`` in 0…1, or ``{"text": str}``. The ``"chat"`` protocol asks for one label and nothing else.

    Args:
      endpoint: an address stands for ``Endpoint(address)``.
      labels: what may be answered; any other label is a fault. Empty: anything.
      description: for the prompt; say here what is classified.
      name: of the tool, for more than one classifier.
      retries, backoff_s: see ``HostTool``.

    Raises:
      ValueError: for an address that is none.
    """
    endpoint = Endpoint(endpoint) if isinstance(endpoint, str) else endpoint
    connection = Connection(endpoint)
    choice = f"Which of these labels fits the image best: {'; '.join(labels)}?" if labels else "What does it show?"
    prompt = f"{description} {choice} Reply with the label and nothing else."
    arguments = {"labels": list(labels)} if labels else {}

    def run(calls: Sequence[HostCall]) -> list[str]:
        return [read_label(connection.ask(call.image, arguments, prompt), labels) for call in calls]

    # The request keeps its own time; the tool's is there for what that cannot bound, such as a name's look-up.
    return HostTool(
        spec=ToolSpec(name, description, (IMAGE_INDEX,), "recognise"),
        run=run,
        timeout_s=2 * endpoint.timeout_s,
        retries=retries,
        backoff_s=backoff_s,
    )


def read_label(reply: Any, labels: Sequence[str] = ()) -> str:
    """``pneumonia`` or ``pneumonia 0.93`` of a reply of either protocol.

    A label must be one of ``labels`` but for case and surrounding quotes and dots; that one stands somewhere in a
    sentence would not do: "no pneumonia".

    Raises:
      ToolFailed: for a reply of another shape.
    """
    if isinstance(reply, dict) and isinstance(reply.get("text"), str):
        return reply["text"]
    label = reply.get("label") if isinstance(reply, dict) else reply
    if not isinstance(label, str) or not label.strip():
        raise ToolFailed(f'classify wants {{"label": …, "score": …}} or {{"text": …}}, not {str(reply)[:200]}')
    label = label.strip().strip("\"'`*. \n")
    if labels:
        spelt = {known.casefold(): known for known in labels}
        if label.casefold() not in spelt:
            raise ToolFailed(f"classify replied {label[:100]!r}, which is not one of the labels {list(labels)}")
        label = spelt[label.casefold()]
    score = reply.get("score") if isinstance(reply, dict) else None
    if score is None:
        return label
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ToolFailed(f"classify replied with the score {score!r}, not a number in 0…1")
    return f"{label} {score:.2f}"
