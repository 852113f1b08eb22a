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
_NOT_ITS_OWN = "its reply came under another node's id."


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
    round. Errors do not count towards the quorum, and a reply counts only for the node that its
    message was sent to.

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
        Called with a node that cannot reply, or not so that it can be read, and the reason.
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
    while waiting and time.monotonic() < end:
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
            yield reply
        # What has failed is no reason to cut off those who work.
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
        if len(waiting) == before:
            time.sleep(_POLL_SECONDS)
    for node in sorted(waiting.values()):
        missing(node, reason)


def _push(grid: Grid, messages: Sequence[Message]) -> dict[str, int]:
    """Send messages; return message id -> node of those that were delivered."""
    # A grid returns no id, or an empty one, for what it could not deliver.
    delivered = set(filter(None, grid.push_messages(messages)))
    nodes = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}
    return {name: node for name, node in nodes.items() if name in delivered}


def _pull(
    grid: Grid,
    identifiers: Sequence[str],
    waiting: dict[str, int],
    gone: Callable[[int, str], None],
) -> Iterator[Message]:
    """Yield the replies that are there; one that cannot be decoded counts as its node's failure."""
    for start in range(0, len(identifiers), _PULL_AT_ONCE):
        some = list(identifiers[start : start + _PULL_AT_ONCE])
        try:
            yield from list(grid.pull_messages(some))
        # What Flower raises on content that does not decode; a lost connection goes through.
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if len(some) > 1:
                for identifier in some:
                    yield from _pull(grid, [identifier], waiting, gone)
            elif some[0] in waiting:
                gone(waiting.pop(some[0]), f"its reply cannot be decoded: {error!r}")
