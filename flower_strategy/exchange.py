"""Sending messages and taking the replies one by one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

_POLL_SECONDS = 0.2
_PULL_AT_ONCE = 8


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    *,
    timeout: float,
    missing: Callable[[int], None],
) -> Iterator[Message]:
    """Send messages and yield the replies as they arrive, until all are here or time is up.

    Flower's ``send_and_receive`` returns all replies at once. Yielding lets the server fold a
    reply in and forget it, so that its memory does not grow with the number of devices.

    Parameters
    ----------
    grid : Grid
        Flower's grid.
    messages : Sequence[Message]
        One message per node.
    timeout : float
        Seconds to wait.
    missing : Callable[[int], None]
        Called at the end with every node that did not reply.
    """
    if not messages:
        return
    nodes = {message.metadata.dst_node_id for message in messages}
    identifiers = set(grid.push_messages(messages))
    end = time.monotonic() + timeout
    while identifiers and time.monotonic() < end:
        before = len(identifiers)
        waiting = sorted(identifiers)
        for start in range(0, before, _PULL_AT_ONCE):
            for reply in grid.pull_messages(waiting[start : start + _PULL_AT_ONCE]):
                identifiers.discard(reply.metadata.reply_to_message_id)
                nodes.discard(reply.metadata.src_node_id)
                yield reply
        if len(identifiers) == before:
            time.sleep(_POLL_SECONDS)
    for node in sorted(nodes):
        missing(node)
