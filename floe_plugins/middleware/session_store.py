"""The texts of sessions: token ids in memory, bounded in number, size and age."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from floe_plugins.middleware.session_wire import ID

#: A session's name: whose it is, the client's random name, and the client's number for it.
Name = tuple[bytes, bytes, int]


@dataclass
class _Session:
    ids: bytes
    used: float


class SessionStore:
    """The ids of sessions by name. What goes first is what has not been used for longest.

    Parameters
    ----------
    most_sessions, most_ids : int
        Most sessions, and most ids of all together. A text that is longer alone is not kept.
    idle_s : float
        Seconds after which an unused session is gone.
    clock : callable
        Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        most_sessions: int,
        most_ids: int,
        idle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_sessions = most_sessions
        self._most_bytes = most_ids * ID
        self._idle_s = idle_s
        self._clock = clock
        self._sessions: OrderedDict[Name, _Session] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def ids(self) -> int:
        """The ids of all sessions together."""
        return self._bytes // ID

    def beginning(self, name: Name, count: int) -> bytes | None:
        """Return the first `count` ids of a session, packed; None if it has not as many."""
        self.expire()
        session = self._sessions.get(name)
        if session is None or len(session.ids) < count * ID:
            return None
        session.used = self._clock()
        self._sessions.move_to_end(name)
        return session.ids[: count * ID]

    def put(self, name: Name, ids: bytes) -> None:
        """Let a session have these ids, packed, and no others."""
        self.expire()
        self._drop(name)
        self._sessions[name] = _Session(ids, self._clock())
        self._bytes += len(ids)
        while len(self._sessions) > self._most_sessions or self._bytes > self._most_bytes:
            self._drop(next(iter(self._sessions)))

    def expire(self) -> float | None:
        """Drop what has been idle for too long; return in how many seconds there is more to drop.

        Returns
        -------
        float or None
            None if nothing is left.
        """
        now = self._clock()
        while self._sessions:
            name, oldest = next(iter(self._sessions.items()))
            left = oldest.used + self._idle_s - now
            if left > 0:
                return left
            self._drop(name)
        return None

    def _drop(self, name: Name) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            self._bytes -= len(session.ids)
