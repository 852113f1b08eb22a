"""Wakes up while vLLM does not call: V2 says nothing when the last requests are aborted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakMethod

#: Seconds without a step after which the streams are told of as ended.
IDLE_S = 5.0


class IdleWatch:
    """Calls a method now and then from a thread of its own, as long as its owner lives.

    Parameters
    ----------
    method : bound method
        Held weakly. It must see to it that no step runs beside it.
    every_s : float
    """

    def __init__(self, method: Callable[[], None], *, every_s: float) -> None:
        self._method = WeakMethod(method)
        self._every_s = every_s
        self._stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="floe-idle", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the thread, soon."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._every_s):
            method = self._method()
            if method is None:
                return
            method()
            del method
