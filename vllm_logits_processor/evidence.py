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
    """

    decay: float = 0.98
    value: float = 0.0

    def observe(self, factor: float) -> None:
        """Add one sampled token, given its factor m (at least 0)."""
        told = _MOST if factor <= 0 else min(_MOST, max(-_MOST, -math.log(factor)))
        self.value = self.decay * self.value + (1 - self.decay) * told
