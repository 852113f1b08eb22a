"""The one thread on which all calls to servers run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own, for callers that must not wait.

    Attributes
    ----------
    loop : asyncio.AbstractEventLoop
    """

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self.loop.run_forever, name="floe-expert", daemon=True
        )
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run `coroutine` on the loop; cancelling the future cancels it there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Run `call`, which must not block, on the loop after `seconds`."""
        self.loop.call_soon_threadsafe(lambda: self.loop.call_later(seconds, call))

    def close(self) -> None:
        """Cancel what still runs, then end the thread."""
        if self.loop.is_closed():
            return
        self.submit(_cancel_the_rest()).result(timeout=5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=5)
        self.loop.close()


async def _cancel_the_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
