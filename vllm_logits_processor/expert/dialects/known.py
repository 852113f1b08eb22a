"""What is known of one server, for as long as it is the same server."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable

from vllm_logits_processor.expert.dialects.detect import Detected, is_asked, make_dialect
from vllm_logits_processor.expert.dialects.dialect import Dialect, Expected

logger = logging.getLogger(__name__)

#: For so many seconds after a server has told what it is, a lost connection is no reason to ask
#: again: some servers close each one, and none is replaced so soon without an error in between.
_SAME_S = 1.0


class KnownServer:
    """Keeps a server's dialect, and finds out anew when another server may be in its place.

    That is so after an error, and when no connection to it is open any more: while one is, it is
    the same process. Used from one event loop.

    Parameters
    ----------
    ask : callable
        Finds out what the server is, given the model of the call; its errors are passed on.
    connected : callable
        Returns whether a connection to the server is open.
    server : str
        The server's name for the log.
    api : str
        What is configured.
    expected : Expected
    base : str or None
        See `make_dialect`.

    Attributes
    ----------
    found : tuple of (Detected, Dialect) or None
        What was found out last.
    """

    def __init__(
        self,
        *,
        ask: Callable[[str], Awaitable[Detected]],
        connected: Callable[[], bool],
        server: str,
        api: str,
        expected: Expected,
        base: str | None,
    ) -> None:
        self._ask, self._connected, self._server = ask, connected, server
        self._expected, self._base = expected, base
        self._asked = is_asked(api)
        self.found: tuple[Detected, Dialect] | None = None
        self._lock = asyncio.Lock()
        #: Reasons to ask so far, and how many of them the last answer has settled. A reason that
        #: comes up while the server is asked is not settled by the answer.
        self._doubts, self._settled = 1, 0
        self._told_at = -math.inf
        if api == "vllm":
            self._doubts = 0
            detected = Detected(api=api, why="as configured")
            self.found = detected, make_dialect(detected, expected, base=base)

    async def current(self, model: str) -> tuple[Detected, Dialect]:
        """Return the server's dialect and why; ask the server first if that is in doubt.

        The dialect is the same object while what the server says is the same.
        """
        if (
            self._asked
            and self._doubts == self._settled
            and not self._connected()
            and time.monotonic() - self._told_at > _SAME_S
        ):
            self.doubt()
        if self.found is None or self._doubts != self._settled:
            async with self._lock:
                if self.found is None or self._doubts != self._settled:
                    self.found = await self._find(model)
        return self.found

    def doubt(self) -> None:
        """Note that another server may be in its place; nothing is asked yet."""
        if self._asked:
            self._doubts += 1

    async def _find(self, model: str) -> tuple[Detected, Dialect]:
        doubts = self._doubts
        detected = await self._ask(model)
        found = self.found
        if found is None or detected != found[0]:
            # Spellings of a large vocabulary take a while to collect.
            dialect = await asyncio.to_thread(
                make_dialect, detected, self._expected, base=self._base
            )
            lacks = dialect.abilities.lacks()
            logger.info(
                "The expert at %s is asked as %s (%s)%s.",
                self._server,
                detected.api,
                detected.why,
                f": {lacks}" if lacks else "",
            )
            found = detected, dialect
        self._settled, self._told_at = doubts, time.monotonic()
        return found
