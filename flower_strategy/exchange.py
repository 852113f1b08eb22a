"""Sending messages and taking the replies one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

_POLL_SECONDS = 0.2
_PULL_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a stage waits for its replies.

    Attributes
    ----------
    timeout : float
        Seconds after which no more replies are taken.
    quorum : float (default: 1.0)
        Share of the devices whose replies are waited for, in (0, 1].
    grace : float (default: 0.0)
        Seconds that the others have left once the quorum is there.
    """

    timeout: float
    quorum: float = 1.0
    grace: float = 0.0

    def needed(self, asked: int) -> int:
        """Return how many of the devices that were asked make the quorum."""
        return max(1, math.ceil(self.quorum * asked - 1e-9))


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    *,
    patience: Patience,
    missing: Callable[[int, str], None],
    gone: Callable[[int, str], None],
) -> Iterator[Message]:
    """Send messages and yield the replies as they arrive, until all are here or time is up.

    Flower's ``send_and_receive`` returns all replies at once. Yielding lets the server fold a
    reply in and forget it, so that its memory does not grow with the number of devices. A reply
    that comes later than a stage waits is never asked for again, so it cannot get into another
    round.

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
        Called with a node that the SuperLink reports as gone, and the reason that it gives.
    """
    if not messages:
        return
    nodes = {message.metadata.dst_node_id for message in messages}
    asked = len(messages)
    identifiers = set(grid.push_messages(messages))
    receivers = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    started = time.monotonic()
    # Flower gives a message that it could not deliver no identifier; its node stays in `nodes`.
    end, reason = started + patience.timeout, f"no reply within {patience.timeout:g} s."
    quorum = patience.needed(asked)
    while identifiers and time.monotonic() < end:
        before = len(identifiers)
        waiting = sorted(identifiers)
        for start in range(0, before, _PULL_AT_ONCE):
            for reply in grid.pull_messages(waiting[start : start + _PULL_AT_ONCE]):
                identifier = reply.metadata.reply_to_message_id
                identifiers.discard(identifier)
                sender = reply.metadata.src_node_id
                if reply.has_error() and sender not in nodes and identifier in receivers:
                    # The SuperLink answers for a node that is gone, under its own id.
                    nodes.discard(receivers[identifier])
                    gone(receivers[identifier], reply.error.reason or "it is gone.")
                    continue
                nodes.discard(sender)
                yield reply
        arrived = asked - len(nodes)
        if quorum <= arrived < asked and before > len(identifiers):
            soon = time.monotonic() + patience.grace
            if soon < end:
                end = soon
                reason = (
                    f"no reply within {patience.grace:g} s of the quorum of {quorum} of {asked}, "
                    f"which was there after {time.monotonic() - started:.1f} s."
                )
        if len(identifiers) == before:
            time.sleep(_POLL_SECONDS)
    for node in sorted(nodes):
        missing(node, reason)
