"""A node that cannot do what a message asks says why in one sentence."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from flwr.app import Context, Error, Message

from floe_plugins.errors import FloeError

logger = logging.getLogger("flwr")

_RAISED = 2
"""Flower's code for a ClientApp that raised (`ErrorCode.CLIENT_APP_RAISED_EXCEPTION`)."""

Answer = Callable[[Message, Context], Message]


def refusing(answer: Answer) -> Answer:
    """Return the function with its every `FloeError` made into replies.

    The reply is an error whose reason is the sentence, after the node's ``name`` if its
    ``--node-config`` has one. The server logs it, and goes on with the other nodes. Flower would
    wrap what is raised, and print a traceback for what is a matter of configuration. Whatever else
    is raised stays Flower's.

    Parameters
    ----------
    answer : Callable[[Message, Context], Message]
        What a ClientApp registers for a kind of message.
    """

    @functools.wraps(answer)
    def guarded(message: Message, context: Context) -> Message:
        try:
            return answer(message, context)
        except FloeError as error:
            name = str(context.node_config.get("name", ""))
            sentence = f"{name}: {error}" if name else str(error)
            logger.error("%s", sentence)
            return Message(Error(code=_RAISED, reason=sentence), reply_to=message)

    return guarded
