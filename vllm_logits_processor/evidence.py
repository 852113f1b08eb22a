"""Which model has predicted the text so far better: a running average, per stream."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: One token cannot say more than this (nats): an expert that ruled the token out is wrong once, not
#: for ever.
_MOST = 10.0


@dataclass
class Evidence:
    """Running average of ``ln p_host - ln q`` over the tokens of the text.

    As ``q(v) = p_host(v) m(v)``, a token's evidence is ``-ln m``: nothing of the host's row need be
    kept. The token that is being weighed is never among those averaged.

    Attributes
    ----------
    decay : float
        Weight of the past at each token.
    value : float
        The average, nats per token; positive where the host has been better.
    prompt : float
        ``ln p_host - ln p_expert`` per host token of the prompt, nats; 0 where it is not known.
    observed : int
        Tokens observed so far.
    """

    decay: float = 0.98
    value: float = 0.0
    prompt: float = 0.0
    observed: int = 0

    def begin(self, prompt: float) -> None:
        """Take in the evidence of the prompt; NaN, where it is not known, changes nothing.

        It may come when tokens have been observed already: the average is then what it would be,
        had it begun with the prompt's.
        """
        if not math.isnan(prompt):
            self.prompt = _bounded(prompt)
            self.value += self.prompt * self.decay**self.observed

    def observe(self, factor: float) -> None:
        """Add one sampled token, given its factor m (at least 0)."""
        told = _MOST if factor <= 0 else _bounded(-math.log(factor))
        self.value = self.decay * self.value + (1 - self.decay) * told
        self.observed += 1


def _bounded(nats: float) -> float:
    return min(_MOST, max(-_MOST, nats))
