"""Confines faults in Floe: the host continues alone, and the server keeps running.

An exception in a logits processor ends vLLM's engine, and with it every user's answer. Expected
faults (an expert that is down, a late reply) are handled where they occur. Any other fault costs
one step: the host's logits stay unchanged, the fault is counted and logged, and the next step is
fused again.

When `MOST_LOST` consecutive steps are lost and none between them fused, the fault counts as
recurring, and fusion ends for the rest of this process: it would cost time and gain nothing. A lack
of memory depends on the load, not on the code: it pauses fusion for `PAUSE_S`.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from floe_plugins.errors import FloeError

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

#: Consecutive lost steps after which a fault counts as recurring.
MOST_LOST = 16
#: Seconds for which fusion is paused after that many steps short of memory.
PAUSE_S = 60.0
#: Seconds in which the same fault is logged once.
_QUIET_S = 60.0
#: Most kinds of faults logged separately; further ones share a line.
_MOST_KINDS = 64

#: Where a fault occurred: following vLLM's batch and opening or ending a request's stream, starting
#: the expert's calls, joining and fusing them, writing the changes, or on another rank.
STAGES = ("open", "end", "begin", "decide", "write", "rank")


class FaultObserver(Protocol):
    """Receives every fault, and whether fusion continues."""

    def observe_fault(self, *, stage: str, reason: str) -> None:
        """Count a fault, by one of `STAGES` and the exception's type."""
        ...

    def observe_fusing(self, *, fusing: bool) -> None:
        """Note that fusion is paused or has ended, or that it continues."""
        ...


@dataclass
class _Logged:
    """When a fault was last logged, and how often it occurred since."""

    at: float
    since: int = 0


class FailOpen:
    """Runs the parts of each step; a fault costs the step, a recurring one ends fusion.

    Parameters
    ----------
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self, *, observer: FaultObserver | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.observer = observer
        self._clock = clock
        #: True once fusion has ended for this process.
        self.ended = False
        self._paused_until: float | None = None
        self._lost = False
        self._counted = self._worked = False
        self._in_a_row = 0
        self._logged: dict[str, _Logged] = {}

    def next_step(self) -> None:
        """Begin a step."""
        if self._worked and not self._lost:
            self._in_a_row = 0
        self._lost = self._counted = self._worked = False
        if self._paused_until is not None and self._clock() >= self._paused_until:
            self._paused_until, self._in_a_row = None, 0
            self._notify_fusing(fusing=True)

    @property
    def fusing(self) -> bool:
        """Whether the current step is still to be fused."""
        return not (self.ended or self._lost or self._paused_until is not None)

    def run(
        self,
        part: Callable[[], _Result],
        *,
        otherwise: _Result,
        stage: str,
        undo: Callable[[], None] | None = None,
    ) -> _Result:
        """Return what `part` of the step returns, or `otherwise` if the step is lost.

        Parameters
        ----------
        part, otherwise, stage
            `stage` is one of `STAGES`.
        undo : callable, optional
            Called after a fault, to abandon what the step had started.

        Raises
        ------
        FloeError
            Raised by `part` to stop the server with an explanation.
        """
        if not self.fusing:
            return otherwise
        try:
            return part()
        except FloeError:
            raise
        except Exception as error:  # noqa: BLE001 - any unforeseen fault; see the module.
            self.lose(error, stage=stage)
        if undo is not None:
            self.aside(undo, stage=stage)
        return otherwise

    def aside(self, part: Callable[[], None], *, stage: str) -> bool:
        """Run a part that concerns a single request; a fault in it does not cost the step.

        Returns
        -------
        bool
            False after a fault.

        Raises
        ------
        FloeError
            As `run` does.
        """
        try:
            part()
        except FloeError:
            raise
        except Exception as error:  # noqa: BLE001 - as in `run`.
            self.note(error, stage=stage)
            return False
        return True

    def worked(self) -> None:
        """Note that the step has decided a request: it has worked, unless it is lost later."""
        self._worked = True

    def lose(self, error: BaseException, *, stage: str) -> None:
        """Count the current step as lost to a fault that was caught elsewhere."""
        self._lost = True
        self.note(error, stage=stage)

    def report(self, error: BaseException, *, stage: str) -> None:
        """Log and count a fault without consequences."""
        if self.observer is not None:
            self.observer.observe_fault(stage=stage, reason=type(error).__name__)
        self._log(error, stage)

    def note(self, error: BaseException, *, stage: str) -> None:
        """Count and log a fault; end or pause fusion if it recurs."""
        self.report(error, stage=stage)
        if self.ended or self._counted:
            return
        self._counted = True
        self._in_a_row += 1
        if self._in_a_row < MOST_LOST:
            return
        self._notify_fusing(fusing=False)
        if out_of_memory(error):
            self._paused_until = self._clock() + PAUSE_S
            logger.error(
                "The host answers alone for %.0f s: memory was short in %d steps in a row.",
                PAUSE_S,
                MOST_LOST,
            )
            return
        self.ended = True
        logger.error(
            "Floe fuses no more until this server is restarted, and the host answers alone: "
            "%d steps in a row were lost, the last to %s in %s. Please report it.",
            MOST_LOST,
            type(error).__name__,
            _places(error),
        )

    def _log(self, error: BaseException, stage: str) -> None:
        """Log a fault with its place, at most once per `_QUIET_S` for each place."""
        places, now = _places(error), self._clock()
        kind = f"{type(error).__name__} in {places}" if len(self._logged) < _MOST_KINDS else stage
        said = self._logged.get(kind)
        if said is not None and now - said.at < _QUIET_S:
            said.since += 1
            return
        again = f" It came {said.since} more times since it was last said." if said else ""
        self._logged[kind] = _Logged(now)
        logger.error(
            "A fault costs one step, which the host decides alone (%s): %s in %s.%s%s",
            stage,
            type(error).__name__,
            places,
            again,
            "" if out_of_memory(error) else " Please report it.",
        )

    def _notify_fusing(self, *, fusing: bool) -> None:
        if self.observer is not None:
            self.observer.observe_fusing(fusing=fusing)


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory of the host or of a device was short."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # torch's host allocators and CUDA's libraries have no exception type of their own.
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in said or "can't allocate memory" in said or "not enough memory" in said
    )


def _places(error: BaseException) -> str:
    """Return where the error occurred, without its message or any value, which may be text."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)
    )
