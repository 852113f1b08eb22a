"""The ClientApp that ``flwr run .`` starts on every node."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from functools import lru_cache

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from floe_plugins.config import refuse_unknown
from floe_plugins.errors import FloeError
from flower_strategy import client
from flower_strategy.config import RunConfig
from flower_strategy.data import LocalData, load_local_data
from flower_strategy.device.kept_model import FOLDER_KEY
from flower_strategy.simulation import is_simulated

logger = logging.getLogger("flwr")

_RAISED = 2
"""Flower's code for a ClientApp that raised (`ErrorCode.CLIENT_APP_RAISED_EXCEPTION`)."""

NODE_KEYS = (
    "data-path",
    "data",
    "partition-id",
    "num-partitions",
    "device",
    "bandwidth-mbps",
    "memory-gib",
    "min-embedding-noise",
    FOLDER_KEY,
    "name",
    "simulated",
)
"""The keys of ``--node-config``."""

Answer = Callable[[Message, Context], Message]


def refusing(answer: Answer) -> Answer:
    """Return a function that turns every `FloeError` into an error reply.

    The reply's reason is the error's sentence, after the node's ``name`` if its ``--node-config``
    has one. The server logs it and continues with the other nodes. Flower would wrap the exception
    and print a traceback for a matter of configuration. All other exceptions are left to Flower.

    Parameters
    ----------
    answer : Callable[[Message, Context], Message]
        The function that a ClientApp registers for a kind of message.
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


app = ClientApp()

_NodeConfig = tuple[tuple[str, str | int | float | bool], ...]


@app.query("profile")
@refusing
def profile(message: Message, context: Context) -> Message:
    """Measure this device and embed its task."""
    return client.profile(message, context, data=local_data(context))


@app.train()
@refusing
def train(message: Message, context: Context) -> Message:
    """Train the received adapter."""
    return client.train(message, context, data=local_data(context))


@app.evaluate()
@refusing
def evaluate(message: Message, context: Context) -> Message:
    """Measure the held-out loss of the received adapter."""
    return client.evaluate(message, context, data=local_data(context))


def local_data(context: Context) -> LocalData:
    """Return this node's data, cached per node: one process may simulate several.

    Raises
    ------
    ConfigError
        ``--node-config`` has an unknown key, or the data are not as `load_local_data` needs them.
    """
    refuse_unknown(
        context.node_config, NODE_KEYS, said="--node-config has the unknown key {key!r}; {hint}"
    )
    config = RunConfig.from_dict(context.run_config)
    node_config = tuple(sorted(context.node_config.items()))
    return _cached_data(config, node_config, simulated=is_simulated(context))


@lru_cache(maxsize=64)
def _cached_data(config: RunConfig, node_config: _NodeConfig, *, simulated: bool) -> LocalData:
    return load_local_data(config, dict(node_config), simulated=simulated)
