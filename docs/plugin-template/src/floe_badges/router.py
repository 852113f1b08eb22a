"""A router that listens to the expert less, the more it contradicts the host."""

import math

from floe_plugins.routers import FloatArray, RouterSignals


class DoubtRouter:
    """Equal weights where the two models agree; where they could not differ more, 1 to 9.

    Attributes
    ----------
    name : str
        The name by which the configuration chooses it.
    """

    name = "doubt"

    def log_odds(self, signals: RouterSignals) -> FloatArray:
        """Return ``ln(w_expert / w_host)`` per row, shape (rows,)."""
        # The disagreement is at most ln 2. A row's answer comes from that row alone.
        return -math.log(9) * signals.disagreement / math.log(2)
