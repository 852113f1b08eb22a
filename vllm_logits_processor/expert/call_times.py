"""How long calls take, by the tokens that they ask for, beside the host's own step."""

from __future__ import annotations

import math
import threading

#: Weight of a new observation.
_NEW = 0.1
#: A variance of the tokens, from which on the calls tell what a further token takes.
_LITTLE = 0.1


class CallTimes:
    """Estimates by how much a call for several tokens outlasts the host's step.

    A call for k tokens takes about ``c0 + (k - 1) * c1`` seconds. Both follow from a line through
    the calls observed, newer ones counting more. Calls that all ask for the same k do not tell c1:
    the slope then fades towards zero, so that another k is tried, and what that costs is known
    again.

    Parameters
    ----------
    deadline_s : float
        Seconds after which a reply is dropped.
    """

    def __init__(self, *, deadline_s: float = math.inf) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        #: Means of tokens and seconds of a call; variance of the tokens, covariance of both.
        self._steps = self._seconds = self._variance = self._covariance = 0.0
        self._observed = False
        self._host_s: float | None = None
        self._last_steps = 0

    @property
    def last_steps(self) -> int:
        """The tokens that the last observed call asked for; 0 before the first."""
        return self._last_steps

    def observe_call(self, *, steps: int, seconds: float) -> None:
        """Note the time that a call took; from any thread."""
        with self._lock:
            self._last_steps = steps
            if not self._observed:
                self._steps, self._seconds, self._observed = float(steps), seconds, True
                return
            more, longer = steps - self._steps, seconds - self._seconds
            self._steps += _NEW * more
            self._seconds += _NEW * longer
            self._variance = (1 - _NEW) * (self._variance + _NEW * more * more)
            self._covariance = (1 - _NEW) * (self._covariance + _NEW * more * longer)

    def observe_host(self, seconds: float) -> None:
        """Note the time that the host needed from a call's start until it waited for the reply."""
        before = seconds if self._host_s is None else self._host_s
        self._host_s = before + _NEW * (seconds - before)

    def wait_s(self, steps: int) -> float:
        """Return the seconds that the host is expected to wait for a call.

        0 before the first observation; infinite if the reply would be dropped.
        """
        with self._lock:
            # What was measured at nearly one k alone says little of others.
            slope = max(0.0, self._covariance) / (self._variance + _LITTLE)
            seconds = self._seconds + (steps - self._steps) * slope
        if seconds > self._deadline_s:
            return math.inf
        return max(0.0, seconds - (self._host_s or 0.0))
