"""Calls plugins with a time limit, counts failures, and never logs their arguments.

:mod:`floe_plugins.gate.runner` calls all detectors of a gate at once and with one time limit, in a
thread of the same kind. The caller decides what a failed call means: a router's rows stay with the
host, a rank policy's devices keep their ranks, a model source provides no model.

A call that does not return keeps its thread, and until it returns every further call fails at once.
So no call waits for a hanging plugin, threads do not accumulate, and calls succeed again once it
returns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

__all__ = [
    "LATE",
    "STUCK",
    "Caller",
    "Failed",
    "InvalidAnswerError",
    "IsolationThread",
    "PluginCallError",
    "count_failure",
    "failures",
    "note_failure",
]

T = TypeVar("T")

#: Reasons other than an exception's type: the call is too slow; an earlier one still runs.
LATE = "late"
STUCK = "stuck"


class PluginCallError(Exception):
    """A call to a plugin failed; `reason` is an exception's type, ``late`` or ``stuck``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class _Task(Generic[T]):
    """One call in the thread."""

    function: Callable[[], T]
    deadline: float
    answer: list[T] = field(default_factory=list)
    reason: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline


class IsolationThread:
    """A daemon thread that starts with the first call and makes one call at a time."""

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
        deadline : float
            On the clock of `time.monotonic`, seconds.

        Raises
        ------
        PluginCallError
            `function` raises (the error holds only the exception's type), is late, or an earlier
            late one has not returned yet.
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
        """Start the thread unless it runs; return the queue of its calls."""
        if self._thread is None or not self._thread.is_alive():
            with self._starting:
                # Also after a fork, where the parent's thread does not exist.
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


logger = logging.getLogger(__name__)


class Failed(NamedTuple):
    """One kind of failure, as it is counted; holds none of the plugin's arguments."""

    hook: str
    plugin: str
    name: str
    reason: str


class InvalidAnswerError(Exception):
    """A plugin returned something that its hook does not accept."""


_counts: Counter[Failed] = Counter()
_counting = threading.Lock()


def failures() -> Mapping[Failed, int]:
    """Return how often calls to plugins have failed in this process, for metrics."""
    with _counting:
        return dict(_counts)


def count_failure(failed: Failed) -> int:
    """Count a failure without logging it, and return the count."""
    with _counting:
        _counts[failed] += 1
        return _counts[failed]


def note_failure(failed: Failed) -> None:
    """Count a failure, and log it the first time and at every power of ten after."""
    count = count_failure(failed)
    # A failing router fails at every token, which would flood the log.
    if count == 10 ** (len(str(count)) - 1):
        logger.warning(
            "%s of plugin %s failed in what it registered with %s: %s (%d so far).",
            failed.name,
            failed.plugin,
            failed.hook,
            failed.reason,
            count,
        )


class Caller:
    """Calls one object that a plugin registered.

    With a time limit the call runs in a thread of its own, see `IsolationThread`.

    Parameters
    ----------
    timeout_s : float or None
        Seconds for a call; None for calls that may take any time, which run in the caller's thread.
    """

    def __init__(self, *, hook: str, plugin: str, name: str, timeout_s: float | None) -> None:
        self._hook, self._plugin, self._name = hook, plugin, name
        self._timeout_s = timeout_s
        self._thread = IsolationThread(f"floe-plugin-{name}")

    def call(self, function: Callable[[], T], *, passing: tuple[type[Exception], ...] = ()) -> T:
        """Return what `function` returns.

        Parameters
        ----------
        function : callable
            The call to the plugin, and the check of its answer.
        passing : tuple of exception types
            Errors that the hook allows, which reach the caller as they are; only without a time
            limit.

        Raises
        ------
        PluginCallError
            The call raises or is late. The failure is counted and logged with the plugin's name and
            the exception's type, without its text, which may quote what was passed.
        """
        try:
            if self._timeout_s is None:
                return _here(function, passing)
            return self._thread.run(function, deadline=time.monotonic() + self._timeout_s)
        except PluginCallError as error:
            self.note(error.reason)
            raise

    def note(self, reason: str) -> None:
        """Count a failure that the caller found."""
        note_failure(Failed(self._hook, self._plugin, self._name, reason))


def _here(function: Callable[[], T], passing: tuple[type[Exception], ...]) -> T:
    try:
        return function()
    except passing:
        raise
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        reason = type(error).__name__
    # Raised outside the handler, so that the plugin's own traceback is not attached.
    raise PluginCallError(reason)
