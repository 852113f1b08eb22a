"""A plugin whose router lets one model alone decide each token, drawn by chance."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from floe_plugins import hookimpl
from floe_plugins.routers import CERTAIN, Router, RouterSignals

NAME = "random"


@dataclass(frozen=True)
class RandomRouter:
    """Gives all weight to the host or to the expert, each in half of the rows.

    What is drawn follows from the bits of the host's entropy: the same for the same text, whatever
    else is in the batch.
    """

    name: str = NAME

    def log_odds(self, signals: RouterSignals) -> Any:
        """Return plus or minus `CERTAIN`, shape (rows,)."""
        entropies = np.asarray(signals.host_entropy, dtype=np.float64)
        drawn = [zlib.crc32(entropy.tobytes()) & 1 for entropy in entropies]
        return np.where(np.array(drawn, dtype=bool), CERTAIN, -CERTAIN)


@hookimpl
def floe_register_routers() -> Sequence[Router]:
    """Register the router."""
    return [RandomRouter()]
