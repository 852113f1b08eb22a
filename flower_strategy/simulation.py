"""Tells whether a node is simulated: by Flower's simulation engine, or as its operator says.

A ``partition-id`` does not tell: many SuperNodes on separate machines have one. The place where the
code runs does. Flower's simulation engine (1.30 to 1.42) calls a ClientApp in its own Ray actor,
``flwr.simulation.ray_transport.ray_actor.ClientAppActor``, and passes the ServerApp an
``InMemoryGrid``. A SuperNode starts a process, and its ServerApp has a grid that uses the network.
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
    """Return whether another machine simulates the node.

    This is so in Flower's simulation engine and on a SuperNode with ``simulated=true`` in its
    ``--node-config``, and on no other, whatever else its ``--node-config`` has.

    Raises
    ------
    ConfigError
        ``simulated`` is neither true nor false, or the node has no valid ``partition-id`` and
        ``num-partitions``, which identify a simulated node.
    """
    said = context.node_config.get("simulated", False)
    if not isinstance(said, bool):
        raise ConfigError(f"--node-config simulated={said!r} must be true or false.")
    if not said and not _in_simulation_engine():
        return False
    partition_of(context.node_config)
    return True


def partition_of(node_config: NodeConfig) -> tuple[int, int]:
    """Return the index of the node's share of the common data, and the number of shares.

    Raises
    ------
    ConfigError
        ``partition-id`` or ``num-partitions`` is missing, not a whole number, or out of range.
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
    # Code in a Ray actor has imported Ray. Elsewhere the import would cost half a second.
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return False
    here = ray.get_runtime_context()
    if here.get_actor_id() is None:
        return False
    # "flwr.simulation.ray_transport.ray_actor.ClientAppActor.run". An app on a real node that uses
    # Ray itself may also run in an actor, but of another class.
    return _ENGINE_ACTOR in (here.get_task_function_name() or "").split(".")
