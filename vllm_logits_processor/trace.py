"""One line of figures per step and stream, for clients that want to see the fusion at work."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

#: Everything that can come of a token: `TraceLine.outcome` says what each means. Requests that want
#: the host alone are not followed at all.
OUTCOMES = (
    "fused",
    "private",
    "no-prompt",
    "too-long",
    "sure",
    "budget",
    "open",
    "busy",
    "reading",
    "late",
    "failed",
    "infeasible",
)


@dataclass(frozen=True, kw_only=True)
class TraceLine:
    """What happened to one token. No text, no token.

    Attributes
    ----------
    label : str or None
        The request's ``floe_label``.
    position : int
        Which token of the answer, from 0.
    outcome : str
        ``fused``, or why the host's logits were kept: ``private`` (the gate), ``no-prompt`` (given
        as embeddings), ``too-long`` (for the expert's context), ``sure`` (the host was, and only
        unsure places are asked about), ``budget`` (the answer's waiting time is spent), ``open``
        (breaker), ``busy`` (first calls still on their way), ``reading`` (so is this answer's),
        ``late``, ``failed``, ``infeasible`` (the host may not produce anything that the expert
        said).
    expert_weight : float
        Weight of the expert, 0 to 1; 0 where the host's logits were kept.
    waited_ms : float
        Milliseconds from the start of the join until the reply was there.
    sent_bytes, received_bytes : int
        This stream's share of the bodies of the expert's call; 0 without one.
    error_bound : float
        The expert's mass that stayed unknown, 0 to 1: what its top K left out, and covers that were
        not asked about. The total variation distance between the expert's distribution as it was
        used and as it would be in full is at most this.
    followed : bool
        True where look-ahead had brought the expert's word before it was needed.
    """

    label: str | None
    position: int
    outcome: str
    expert_weight: float = 0.0
    waited_ms: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    error_bound: float = 0.0
    followed: bool = False


class Trace:
    """Appends lines to a file; every step's lines are on disk before its tokens are sampled.

    A file that cannot be written (a full disk) ends the trace, and nothing else.

    Parameters
    ----------
    path : str or None
        The file; None keeps no trace.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None

    def write(self, lines: list[TraceLine]) -> None:
        """Append the lines of one step."""
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(line)) + "\n" for line in lines)
        except OSError as error:
            logger.error(
                "The trace ends here: %s cannot be written (%s).", self._path, error.strerror
            )
            self._path = None
