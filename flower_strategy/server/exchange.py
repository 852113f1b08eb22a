"""Sends messages and receives the replies one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

_POLL_SECONDS = 0.2
# What Flower raises for content that cannot be decoded. A lost connection is not caught.
_UNDECODABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError)
_NOT_ITS_OWN = "its reply came under another node's id."


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a stage waits for its replies.

    Attributes
    ----------
    timeout : float
        Seconds after which no more replies are accepted.
    quorum : float (default: 1.0)
        Share of the devices whose replies are awaited, in (0, 1].
    grace : float (default: 0.0)
        Seconds left for the others once the quorum is reached.
    """

    timeout: float
    quorum: float = 1.0
    grace: float = 0.0

    def needed(self, asked: int) -> int:
        """Return how many of `asked` devices make the quorum."""
        return max(1, math.ceil(self.quorum * asked - 1e-9))


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    *,
    patience: Patience,
    missing: Callable[[int, str], None],
    gone: Callable[[int, str], None],
    late: set[str] | None = None,
    arrived: Callable[[int, float], None] | None = None,
) -> Iterator[Message]:
    """Send messages and yield the replies as they arrive, until all are here or time is up.

    Flower's ``send_and_receive`` returns all replies at once. Yielding them lets the server add
    each reply to a sum and drop it, so that memory does not grow with the number of devices. A
    late reply cannot enter another round: `drop_late` removes it from the SuperLink, which would
    keep it until the run ends. Errors do not count towards the quorum, and a reply counts only for
    the node that its message was sent to.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    messages : Sequence[Message]
        One message per node.
    patience : Patience
        How long to wait.
    missing : Callable[[int, str], None]
        Called at the end with every node that did not reply, and the reason as one phrase.
    gone : Callable[[int, str], None]
        Called with a node that cannot reply or whose reply is unreadable, and the reason.
    late : set[str], optional
        Receives the ids of the messages whose replies are no longer awaited.
    arrived : Callable[[int, float], None], optional
        Called with a node before its reply is yielded, and the seconds since the messages were
        pushed.
    """
    if not messages:
        return
    waiting = _push(grid, messages)
    delivered = set(waiting.values())
    for message in messages:
        if message.metadata.dst_node_id not in delivered:
            gone(message.metadata.dst_node_id, "the message could not be delivered.")
    good, started = 0, time.monotonic()
    end, reason = started + patience.timeout, f"no reply within {patience.timeout:g} s."
    over = False
    while waiting and not over:
        # Replies that arrived while earlier ones were processed are in time: look once more.
        over = time.monotonic() >= end
        before = len(waiting)
        for reply in _pull(grid, sorted(waiting), waiting, gone):
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is None:
                continue
            sender = reply.metadata.src_node_id
            if sender != node:
                # The SuperLink answers for a node that is gone, under its own id.
                gone(node, (reply.error.reason if reply.has_error() else "") or _NOT_ITS_OWN)
                continue
            good += not reply.has_error()
            if arrived is not None:
                arrived(node, time.monotonic() - started)
            yield reply
        # A failure must not cut off the nodes that are still working.
        able = good + len(waiting)
        quorum = patience.needed(able)
        if waiting and good >= quorum and before > len(waiting):
            soon = time.monotonic() + patience.grace
            if soon < end:
                end = soon
                reason = (
                    f"no reply within {patience.grace:g} s of the quorum of {quorum} of {able}, "
                    f"which was there after {time.monotonic() - started:.1f} s."
                )
        if len(waiting) == before and not over:
            time.sleep(_POLL_SECONDS)
    if late is not None:
        late.update(waiting)
    for node in sorted(waiting.values()):
        missing(node, reason)


def drop_late(grid: Grid, late: set[str]) -> None:
    """Remove late replies from the SuperLink, which keeps them until they are pulled.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    late : set[str]
        The ids of their messages, see `exchange`; those whose replies were found are removed.
    """
    for identifier in sorted(late):
        try:
            if list(grid.pull_messages([identifier])):
                late.discard(identifier)
        except _UNDECODABLE:
            late.discard(identifier)


def _push(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; return message id -> node of those that were delivered."""
    # A grid returns no id, or an empty one, for a message that it could not deliver.
    delivered = set(filter(None, grid.push_messages(messages)))
    nodes = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {name: node for name, node in nodes.items() if name in delivered}


def _pull(
    grid: Grid,
    identifiers: Sequence[str],
    waiting: dict[str, int],
    gone: Callable[[int, str], None],
) -> Iterator[Message]:
    """Yield the available replies; one that cannot be decoded counts as its node's failure.

    Pulls one at a time: the SuperLink deletes what it returns, so an undecodable reply would lose
    all others of the same call.
    """
    for identifier in identifiers:
        try:
            replies = list(grid.pull_messages([identifier]))
        except _UNDECODABLE as error:
            if identifier in waiting:
                gone(waiting.pop(identifier), f"its reply cannot be decoded: {error!r}")
            continue
        yield from replies
