"""Calls into plugins: with a time limit, counted, and logged without a word of what was passed.

Detectors are called by :mod:`floe_plugins.gate.runner`, all of a gate's in one go and with one time
limit, in a thread of the same kind. What a failed call means is up to the caller: a router's rows
stay with the host, a rank policy's devices keep their ranks, a model source provides no model.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from floe_plugins.isolation_thread import IsolationThread, PluginCallError

__all__ = [
    "Caller",
    "Failed",
    "InvalidAnswerError",
    "PluginCallError",
    "count_failure",
    "failures",
    "note_failure",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Failed(NamedTuple):
    """One kind of failure, as it is counted; says nothing about what was passed to the plugin."""

    hook: str
    plugin: str
    name: str
    reason: str


class InvalidAnswerError(Exception):
    """A plugin answered something that its hook does not accept."""


_counts: Counter[Failed] = Counter()
_counting = threading.Lock()


def failures() -> Mapping[Failed, int]:
    """Return how often calls into plugins have failed in this process, for metrics."""
    with _counting:
        return dict(_counts)


def count_failure(failed: Failed) -> int:
    """Count a failure without logging it; return how many there were."""
    with _counting:
        _counts[failed] += 1
        return _counts[failed]


def note_failure(failed: Failed) -> None:
    """Count a failure, and log it the first time and at every power of ten after."""
    count = count_failure(failed)
    # A router fails at every token: the log is for people.
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
    """Calls one thing that a plugin registered.

    With a time limit the call runs in a thread of its own, see `IsolationThread`.

    Parameters
    ----------
    hook, plugin, name : str
        What is called: the hook, the plugin, and the name of the thing.
    timeout_s : float or None
        Seconds for a call; None for calls that may take as long as they need, which then run in
        the caller's thread.
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
            The call into the plugin, and whatever checks its answer.
        passing : tuple of exception types
            Errors that the hook allows, which go on to the caller as they are; only without a time
            limit.

        Raises
        ------
        PluginCallError
            If it raises or is late. That is counted and logged with the plugin's name and the
            exception's type; its text, which may quote what was passed, is dropped.
        """
        try:
            if self._timeout_s is None:
                return _here(function, passing)
            return self._thread.run(function, deadline=time.monotonic() + self._timeout_s)
        except PluginCallError as error:
            self.note(error.reason)
            raise

    def note(self, reason: str) -> None:
        """Count a failure that the caller has seen itself."""
        note_failure(Failed(self._hook, self._plugin, self._name, reason))


def _here(function: Callable[[], T], passing: tuple[type[Exception], ...]) -> T:
    try:
        return function()
    except passing:
        raise
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything
        reason = type(error).__name__
    # Raised out here, so that no traceback of the plugin's own error hangs on it.
    raise PluginCallError(reason)
