"""Protocols of evaluation by name: which questions of which benchmark, asked in which words, scored by what.

    python -m medvista_jax.evaluation.protocols --list

They do not compare with one another: :meth:`Protocol.line` stands beside every number.
"""

from collections.abc import Mapping

from medvista_jax.evaluation.protocols.base import Ask, Case, Protocol, Selection, SetRule, Strict, fixed
from medvista_jax.evaluation.protocols.medevalkit import MEDEVALKIT
from medvista_jax.evaluation.protocols.medvlthinker import MEDVLTHINKER

__all__ = ["PROTOCOLS", "Ask", "Case", "Protocol", "Selection", "SetRule", "Strict", "fixed", "protocol_of"]

PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in (MEDVLTHINKER, MEDEVALKIT)}


def protocol_of(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
      KeyError: there is none; the message lists the names.
    """
    try:
        return PROTOCOLS[name.replace("-", "_").lower()]
    except KeyError:
        raise KeyError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}") from None
