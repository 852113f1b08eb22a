"""The two ServerApps that `round_overhead` compares; each notes its rounds' seconds.

What is measured is the same for both: a round lasts from the end of the evaluation before it to the
end of its own, and the server's own seconds are those not spent inside the exchange with the nodes.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from flwr.app import Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from flower_strategy.config import RunConfig
from flower_strategy.initial_arrays import make_initial_arrays
from flower_strategy.strategy import FloeStrategy

#: Environment variable with the path of the file that a run's figures are written to.
RESULT_VARIABLE = "FLOE_ROUND_OVERHEAD_RESULT"

floe = ServerApp()
fedavg = ServerApp()


class RoundClock:
    """Seconds of every round, and how many of them were spent waiting for nodes."""

    def __init__(self) -> None:
        self.rounds: list[dict[str, float]] = []
        self.waited = 0.0
        self._ended: float | None = None

    def waits(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yield messages; the time until each comes is waiting."""
        source = iter(messages)
        while True:
            started = time.perf_counter()
            message = next(source, None)
            self.waited += time.perf_counter() - started
            if message is None:
                return
            yield message

    def end_round(self) -> None:
        """Note a round; the first call only starts the clock."""
        now = time.perf_counter()
        if self._ended is not None:
            seconds = now - self._ended
            self.rounds.append({"seconds": seconds, "server_s": seconds - self.waited})
        self._ended, self.waited = now, 0.0

    def write(self) -> None:
        Path(os.environ[RESULT_VARIABLE]).write_text(json.dumps(self.rounds), "utf-8")


class Timed:
    """A strategy with a clock; a round ends with its evaluation."""

    clock: RoundClock

    def aggregate_evaluate(self, *arguments: Any, **options: Any) -> MetricRecord | None:
        found: Any = super()
        metrics: MetricRecord | None = found.aggregate_evaluate(*arguments, **options)
        self.clock.end_round()
        return metrics


class TimedFloe(Timed, FloeStrategy):
    """Floe with a clock."""

    def receive(self, *arguments: Any, **options: Any) -> Iterator[Message]:
        return self.clock.waits(super().receive(*arguments, **options))


class TimedFedAvg(Timed, FedAvg):
    """Flower's FedAvg with a clock."""


@floe.main()
def run_floe(grid: Grid, context: Context) -> None:
    config = RunConfig.from_dict(context.run_config)
    strategy = TimedFloe.from_config(config)
    assert isinstance(strategy, TimedFloe)
    strategy.clock = RoundClock()
    strategy.start(grid, make_initial_arrays(strategy), num_rounds=config.rounds)
    strategy.clock.write()


@fedavg.main()
def run_fedavg(grid: Grid, context: Context) -> None:
    """Run FedAvg with the same initial adapter, training and evaluation."""
    config = RunConfig.from_dict(context.run_config)
    floes = FloeStrategy.from_config(config)
    clock = RoundClock()
    send_and_receive = grid.send_and_receive

    def timed(messages: Iterable[Message], **options: Any) -> Iterable[Message]:
        started = time.perf_counter()
        replies = send_and_receive(messages, **options)
        clock.waited += time.perf_counter() - started
        return replies

    grid.send_and_receive = timed  # type: ignore[method-assign]
    strategy = TimedFedAvg(min_available_nodes=2)
    strategy.clock = clock
    how = floes.training.to_record()
    how["scaling"] = floes.training.scaling(floes.server_rank)
    how["devices"] = list(floes.envelope.devices)
    strategy.start(
        grid,
        make_initial_arrays(floes),
        num_rounds=config.rounds,
        train_config=how,
        evaluate_config=deepcopy(how),
    )
    clock.write()
