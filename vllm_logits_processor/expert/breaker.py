"""The circuit breaker of a server: skips one that keeps failing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class CircuitBreaker:
    """Closed while calls succeed; open after consecutive failures; then one probe per cooldown.

    A probe that has not ended after a cooldown does not delay the next one: it may hang although
    the server has recovered. An inconclusive probe, such as a reply that was slow because of a long
    prompt, is followed by another immediately.

    Parameters
    ----------
    threshold : int
        Consecutive failures, including late replies, that open the breaker.
    cooldown_s : float
        Seconds for which an open breaker refuses all calls before it admits a probe.

    Attributes
    ----------
    period : int
        Increases when the breaker opens or closes: the outcome of a call from an earlier period
        does not affect the current one.
    """

    threshold: int
    cooldown_s: float
    period: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    #: When the breaker opened or its last probe began; None while it is closed.
    _since: float | None = field(default=None, init=False)
    _probing: bool = field(default=False, init=False)

    def allows(self, now: float) -> bool:
        """Return whether a call, or a probe, may start at `now` (seconds, monotonic)."""
        if self._since is None:
            return True
        if now - self._since < self.cooldown_s:
            return False
        self._probing, self._since = True, now
        return True

    def succeeded(self) -> None:
        """Note a valid reply in time: the breaker closes."""
        self.period += self._since is not None
        self._failures, self._since, self._probing = 0, None, False

    def failed(self, now: float) -> None:
        """Note a failed or late call at `now`; enough of them in a row open the breaker.

        After a failed probe the next one may start a cooldown after the probe began, not after it
        ended: a hanging probe must not prolong the time for which a recovered server is skipped.
        """
        self._failures += 1
        if self._since is None and self._failures >= self.threshold:
            self._since = now
            self.period += 1
        self._probing = False

    def inconclusive(self) -> None:
        """Note a call whose outcome says nothing about the server's health."""
        if self._probing:
            self._since = -math.inf

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._since is None:
            return "closed"
        return "half-open" if self._probing else "open"
