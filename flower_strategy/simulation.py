"""Whether a node is simulated: by Flower's simulation engine, or because its operator says so.

It is not guessed from a node's ``partition-id``: many SuperNodes on machines of their own have one.
What tells is where the code runs. Flower's simulation engine (of 1.30 to 1.42) calls a ClientApp in
a Ray actor of its own, ``flwr.simulation.ray_transport.ray_actor.ClientAppActor``, and hands the
ServerApp an ``InMemoryGrid``. A SuperNode starts a process, and its ServerApp has a grid that goes
over the network.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from flwr.app import Context
from flwr.serverapp import Grid

from floe_plugins.checks import is_integer
from floe_plugins.errors import ConfigError

NodeConfig = Mapping[str, str | int | float | bool]

_ENGINE_ACTOR = "ClientAppActor"
_ENGINE_GRID = "InMemoryGrid"


def is_simulated(context: Context) -> bool:
    """Return whether another machine stands for the node.

    That is so in Flower's simulation engine, and on a SuperNode that says ``simulated=true`` in its
    ``--node-config``. On no other, whatever else its ``--node-config`` has.

    Raises
    ------
    ConfigError
        ``simulated`` is neither true nor false, or the node has no valid ``partition-id`` and
        ``num-partitions``, by which a simulated node is known.
    """
    said = context.node_config.get("simulated", False)
    if not isinstance(said, bool):
        raise ConfigError(f"--node-config simulated={said!r} must be true or false.")
    if not said and not _in_simulation_engine():
        return False
    partition_of(context.node_config)
    return True


def partition_of(node_config: NodeConfig) -> tuple[int, int]:
    """Return which share of common data is the node's, and how many there are.

    Raises
    ------
    ConfigError
        ``partition-id`` or ``num-partitions`` is missing, no whole number, or out of range.
    """
    for key in ("partition-id", "num-partitions"):
        if key not in node_config:
            raise ConfigError(
                f"The node has no {key}: set both in --node-config, such as partition-id=0 "
                "num-partitions=4."
            )
    own, count = node_config["partition-id"], node_config["num-partitions"]
    if not (
        is_integer(count, least=1, most=10_000_000) and is_integer(own, least=0, most=count - 1)
    ):
        raise ConfigError(
            f"The node's partition-id is {own!r} and its num-partitions {count!r}; accepted are "
            "whole numbers from 0 to one less than there are partitions."
        )
    return own, count


def simulates(grid: Grid) -> bool:
    """Return whether a ServerApp's nodes are simulated in its own process."""
    # The class has moved between Flower's modules; its name has not.
    return any(kind.__name__ == _ENGINE_GRID for kind in type(grid).__mro__)


def _in_simulation_engine() -> bool:
    # Who is in a Ray actor has imported Ray. Nobody else needs to: it takes half a second.
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    here = ray.get_runtime_context()
    if here.get_actor_id() is None:
        return False
    # "flwr.simulation.ray_transport.ray_actor.ClientAppActor.run". An app on a real node that uses
    # Ray itself may run in an actor, too, of another class.
    return _ENGINE_ACTOR in (here.get_task_function_name() or "").split(".")
