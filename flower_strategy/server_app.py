"""The ServerApp that ``flwr run .`` starts."""

from __future__ import annotations

import logging
import time

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from floe_plugins.errors import FloeError
from flower_strategy.adapters.modules import AdaptedModules
from flower_strategy.config import RunConfig
from flower_strategy.initial_arrays import make_initial_arrays
from flower_strategy.preflight import Preflight
from flower_strategy.simulation import simulates
from flower_strategy.strategy import FloeStrategy

app = ServerApp()

_LOOK_AGAIN_SECONDS = 0.2
_REGISTERED_SECONDS = 10.0


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run configuration describes."""
    try:
        run(grid, context)
    except FloeError as error:
        logging.getLogger("flwr").error("%s", error)
        # Flower prints a traceback of what ends a ServerApp. A sentence for the user needs neither
        # its origin in Floe nor its cause.
        raise error.with_traceback(None) from None


def run(grid: Grid, context: Context) -> None:
    """Check the configuration, the model and, in a simulation, the data; run the strategy."""
    config = RunConfig.from_dict(context.run_config)
    strategy = FloeStrategy.from_config(config)
    modules = check_simulation(config, grid) if simulates(grid) else None
    strategy.start(
        grid=grid,
        initial_arrays=make_initial_arrays(strategy, modules=modules),
        num_rounds=config.rounds,
        timeout=config.round_timeout,
    )


def check_simulation(config: RunConfig, grid: Grid) -> AdaptedModules:
    """Check what simulated nodes load from this machine, before anything is sent to them.

    Returns which modules of the base model carry factors.

    Raises
    ------
    FloeError
        A check failed; the message is one sentence.
    """
    looked = Preflight(config=config, num_partitions=_registered_nodes(grid))
    for check in looked.checks():
        logging.getLogger("flwr").info("%s: %s", check.subject, check.look())
    return looked.modules


def _registered_nodes(grid: Grid) -> int:
    """Return the number of nodes, 1 if none registers in time.

    The engine registers its nodes while the ServerApp starts: all are registered once their number
    stays the same.
    """
    end, before = time.monotonic() + _REGISTERED_SECONDS, 0
    while time.monotonic() < end:
        count = len(list(grid.get_node_ids()))
        if count and count == before:
            break
        before = count
        time.sleep(_LOOK_AGAIN_SECONDS)
    return max(before, 1)
