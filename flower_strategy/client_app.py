"""The ClientApp that ``flwr run .`` starts on every node."""

from __future__ import annotations

from functools import lru_cache

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flower_strategy import client
from flower_strategy.config import RunConfig
from flower_strategy.data import LocalData, load_local_data
from flower_strategy.refusal import refusing
from flower_strategy.simulation import is_simulated

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
    """Train the adapter that came."""
    return client.train(message, context, data=local_data(context))


@app.evaluate()
@refusing
def evaluate(message: Message, context: Context) -> Message:
    """Measure the held-out loss of the adapter that came."""
    return client.evaluate(message, context, data=local_data(context))


def local_data(context: Context) -> LocalData:
    """Return this node's data; a process that stands for several nodes keeps theirs."""
    config = RunConfig.from_dict(context.run_config)
    node_config = tuple(sorted(context.node_config.items()))
    return _cached_data(config, node_config, simulated=is_simulated(context))


@lru_cache(maxsize=64)
def _cached_data(config: RunConfig, node_config: _NodeConfig, *, simulated: bool) -> LocalData:
    return load_local_data(config, dict(node_config), simulated=simulated)
