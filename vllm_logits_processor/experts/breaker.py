"""A circuit breaker: an expert that keeps failing is left alone for a while."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CircuitBreaker:
    """Closed while calls succeed; open after a row of failures; then one probe at a time.

    Parameters
    ----------
    threshold : int
        Failures in a row (late replies among them) that open the breaker.
    cooldown_s : float
        Seconds for which an open breaker lets no call through, before it lets one probe.
    """

    threshold: int
    cooldown_s: float
    _failures: int = field(default=0, init=False)
    _opened_at: float | None = field(default=None, init=False)
    _probing: bool = field(default=False, init=False)

    def allows(self, now: float) -> bool:
        """Tell whether a call may start at `now` (seconds, monotonic), as a probe or freely."""
        if self._opened_at is None:
            return True
        if now - self._opened_at < self.cooldown_s:
            return False
        # The clock starts again: a probe whose request was aborted must not be the last one.
        self._probing, self._opened_at = True, now
        return True

    def succeeded(self) -> None:
        """Note a good reply: the breaker closes."""
        self._failures, self._opened_at, self._probing = 0, None, False

    def failed(self, now: float) -> None:
        """Note a failed or late call at `now`; the last of a row, or a failed probe, opens."""
        self._failures += 1
        if self._probing or self._failures >= self.threshold:
            self._opened_at, self._probing = now, False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._probing else "open"
