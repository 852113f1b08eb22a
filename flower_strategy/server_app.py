"""The ServerApp that ``flwr run .`` starts."""

from __future__ import annotations

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from floe_plugins.errors import FloeError
from flower_strategy.run_config import RunConfig
from flower_strategy.strategy import FloeStrategy, make_initial_arrays

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run configuration describes."""
    try:
        run(grid, context)
    except FloeError as error:
        # The traceback that Flower prints comes after this; the sentence is what helps.
        logging.getLogger("flwr").error("%s", error)
        raise


def run(grid: Grid, context: Context) -> None:
    """Check the configuration and run the strategy."""
    config = RunConfig.from_dict(context.run_config)
    strategy = FloeStrategy.from_config(config)
    strategy.start(
        grid=grid,
        initial_arrays=make_initial_arrays(strategy),
        num_rounds=config.rounds,
        timeout=config.round_timeout,
    )
