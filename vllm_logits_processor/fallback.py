"""What a fault in Floe does to the server that runs it: the host goes on alone.

An exception in a logits processor ends vLLM's engine, and with it every user's answer. Faults
that are foreseen (an expert that is down, a late reply) are handled where they happen. For all
others, fusion ends for the rest of this process, loudly, and the host's logits stay as they are.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from floe_plugins.errors import FloeError

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class Fallback:
    """Runs the steps of fusion until one fails in a way that nobody foresaw."""

    def __init__(self) -> None:
        self._fallen = False

    def run(self, step: Callable[[], _Result], *, otherwise: _Result) -> _Result:
        """Return what `step` returns, or `otherwise` from the first unforeseen failure on.

        Raises
        ------
        FloeError
            One that `step` raises: it is meant to stop the server, with an explanation.
        """
        if self._fallen:
            return otherwise
        try:
            return step()
        except FloeError:
            raise
        except Exception as error:  # noqa: BLE001 - what nobody foresaw; see the module.
            self._fallen = True
            logger.error(
                "Floe fuses no more until this server is restarted, and the host answers alone: "
                "%s in %s. Please report it.",
                type(error).__name__,
                _places(error),
            )
            return otherwise


def _places(error: BaseException) -> str:
    """Return where the error came from; neither its message nor any value, which may be text."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(
        f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames)
    )
