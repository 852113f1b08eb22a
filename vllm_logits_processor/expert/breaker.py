"""A circuit breaker: an expert that keeps failing is left alone for a while."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class CircuitBreaker:
    """Closed while calls succeed; open after a row of failures; then one probe per cooldown.

    A probe that has not ended after a cooldown does not keep the next one back: what it waits for
    may have gone with the fault, and the server be well again. One that says nothing, such as a
    reply that took long because there was much to read, is followed by another at once.

    Parameters
    ----------
    threshold : int
        Failures in a row (late replies among them) that open the breaker.
    cooldown_s : float
        Seconds for which an open breaker lets no call through, before it lets one probe.

    Attributes
    ----------
    period : int
        Grows when the breaker opens or closes: the end of a call that began in an earlier period
        says nothing of the present one.
    """

    threshold: int
    cooldown_s: float
    period: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    #: When the breaker opened or its last probe began; None while it is closed.
    _since: float | None = field(default=None, init=False)
    _probing: bool = field(default=False, init=False)

    def allows(self, now: float) -> bool:
        """Tell whether a call may start at `now` (seconds, monotonic), as a probe or freely."""
        if self._since is None:
            return True
        if now - self._since < self.cooldown_s:
            return False
        self._probing, self._since = True, now
        return True

    def succeeded(self) -> None:
        """Note a good reply in time: the breaker closes."""
        self.period += self._since is not None
        self._failures, self._since, self._probing = 0, None, False

    def failed(self, now: float) -> None:
        """Note a failed or late call at `now`; the last of a row opens.

        After a failed probe the next one may begin a cooldown after it began, not after it ended:
        a probe that hangs must not add to the time for which a healed server is left alone.
        """
        self._failures += 1
        if self._since is None and self._failures >= self.threshold:
            self._since = now
            self.period += 1
        self._probing = False

    def told_nothing(self) -> None:
        """Note a call that has ended without a word on the server's health."""
        if self._probing:
            self._since = -math.inf

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._since is None:
            return "closed"
        return "half-open" if self._probing else "open"
