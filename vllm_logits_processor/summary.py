"""What became of one stream, in figures: a log line when it ends, and what the metrics count."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from typing import Any

from vllm_logits_processor.trace import TraceLine

logger = logging.getLogger(__name__)

#: Weights closer together than this are one weight; a router's arithmetic is in float64.
_SAME_WEIGHT = 1e-9


@dataclass
class StreamSummary:
    """Totals over the rows that were decided for one stream.

    A row is a token of the answer, save where the engine threw its sample away: chunks of a long
    prompt, and draft tokens that were not accepted.

    Attributes
    ----------
    tokens : dict of str to int
        Rows by outcome, as `TraceLine` names them.
    waited_ms, longest_wait_ms : float
        Milliseconds that joins took, together and at most.
    sent_bytes, received_bytes : int
        The stream's share of the bodies of the expert's calls.
    followed : int
        Fused rows for which look-ahead had brought the expert's word before it was needed.
    lowest_weight, highest_weight : float
        Range of the expert's weight over the fused rows; 0 before the first.
    highest_error_bound : float
        Highest error bound of a fused row.
    """

    tokens: dict[str, int] = field(default_factory=dict)
    waited_ms: float = 0.0
    longest_wait_ms: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    followed: int = 0
    lowest_weight: float = 0.0
    highest_weight: float = 0.0
    highest_error_bound: float = 0.0
    _weight_sum: float = 0.0
    _error_bound_sum: float = 0.0

    def add(self, line: TraceLine) -> None:
        """Count one row."""
        self.tokens[line.outcome] = self.tokens.get(line.outcome, 0) + 1
        self.waited_ms += line.waited_ms
        self.longest_wait_ms = max(self.longest_wait_ms, line.waited_ms)
        self.sent_bytes += line.sent_bytes
        self.received_bytes += line.received_bytes
        if line.outcome == "fused":
            first = self.fused == 1
            weight = line.expert_weight
            self.lowest_weight = weight if first else min(self.lowest_weight, weight)
            self.highest_weight = max(self.highest_weight, weight)
            self.highest_error_bound = max(self.highest_error_bound, line.error_bound)
            self._weight_sum += weight
            self._error_bound_sum += line.error_bound
            self.followed += line.followed

    @property
    def fused(self) -> int:
        """Number of rows that both models decided."""
        return self.tokens.get("fused", 0)

    @property
    def constant_weight(self) -> bool:
        """True where the router gave one weight to all of several rows: it did not route."""
        return self.fused > 1 and self.highest_weight - self.lowest_weight <= _SAME_WEIGHT

    def as_dict(self) -> dict[str, Any]:
        """Return the figures that the log line holds: numbers, and names of outcomes."""
        fused = max(self.fused, 1)
        return {
            "event": "floe_stream_finished",
            "tokens": dict(self.tokens),
            "weight_mean": round(self._weight_sum / fused, 6),
            "weight_min": round(self.lowest_weight, 6),
            "weight_max": round(self.highest_weight, 6),
            "constant_weight": self.constant_weight,
            "followed_share": round(self.followed / fused, 6),
            "waited_ms": round(self.waited_ms, 3),
            "longest_wait_ms": round(self.longest_wait_ms, 3),
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
            "error_bound_mean": round(self._error_bound_sum / fused, 6),
            "error_bound_max": round(self.highest_error_bound, 6),
        }

    def log(self) -> None:
        """Write the figures as one line of JSON, at level INFO."""
        logger.info("%s", json.dumps(self.as_dict()))
