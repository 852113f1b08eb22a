"""A thread in which plugins are called, by callers who wait until a deadline and no longer.

A call that does not come back keeps the thread, and until it does every further one fails at once.
So nobody waits for a plugin that is known to hang, no threads pile up, and all goes on when it
returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

#: Reasons that are no exception's type: the call took too long; an earlier one still does.
LATE = "late"
STUCK = "stuck"


class PluginCallError(Exception):
    """A call into a plugin failed; `reason` is an exception's type, ``late`` or ``stuck``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class _Task(Generic[T]):
    """One call on its way through the thread."""

    function: Callable[[], T]
    deadline: float
    answer: list[T] = field(default_factory=list)
    reason: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline


class IsolationThread:
    """One thread, a daemon, that is started with the first call and makes one call at a time.

    Parameters
    ----------
    name : str
        The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: SimpleQueue[_Task[Any] | None] = SimpleQueue()
        self._current: _Task[Any] | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def run(self, function: Callable[[], T], *, deadline: float) -> T:
        """Return what `function` returns.

        Parameters
        ----------
        function : callable
            The call into the plugin.
        deadline : float
            On the clock of `time.monotonic`, seconds.

        Raises
        ------
        PluginCallError
            If `function` raises, with the exception's type alone; if it is late; or if an earlier
            one is late and still has not come back.
        """
        tasks = self._running()
        current = self._current
        if current is not None and current.late:
            raise PluginCallError(STUCK)
        task = _Task(function, deadline)
        tasks.put(task)
        if not task.done.wait(max(0.0, deadline - time.monotonic())):
            raise PluginCallError(LATE)
        if task.reason:
            raise PluginCallError(task.reason)
        return task.answer[0]

    def close(self) -> None:
        """Let the thread end once it is idle."""
        self._tasks.put(None)

    def _running(self) -> SimpleQueue[_Task[Any] | None]:
        """Start the thread unless it runs; return where it takes its calls from."""
        if self._thread is None or not self._thread.is_alive():
            with self._starting:
                # Also after a fork, where the parent's thread does not exist, whatever it was at.
                if self._thread is None or not self._thread.is_alive():
                    self._tasks, self._current = SimpleQueue(), None
                    self._thread = threading.Thread(
                        target=self._work, args=(self._tasks,), name=self._name, daemon=True
                    )
                    self._thread.start()
        return self._tasks

    def _work(self, tasks: SimpleQueue[_Task[Any] | None]) -> None:
        while (task := tasks.get()) is not None:
            if task.late:
                continue
            self._current = task
            try:
                task.answer.append(task.function())
            except BaseException as error:  # noqa: BLE001 - whatever a plugin raises, SystemExit
                # too, must neither reach Floe nor end the thread.
                task.reason = type(error).__name__
            self._current = None
            task.done.set()
