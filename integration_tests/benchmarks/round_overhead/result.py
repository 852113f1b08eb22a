"""The table, and what it says."""

from collections.abc import Sequence
from typing import Any

from integration_tests.benchmarks.cli import Namespace, Result, Values

_ROWS = {
    "round, s": "round_s",
    "before the last, s": "earlier_round_s",
    "the last of a run, s": "last_round_s",
    "server's own, s": "server_s",
}


def result(values: Values, _: Namespace) -> Result:
    """Return a row for whole rounds, and one for the server's own part."""
    rows: list[Sequence[Any]] = []
    for said, key in _ROWS.items():
        floe, fedavg = values[key], values[f"fedavg_{key}"]
        rows.append([said, floe, fedavg, floe / fedavg])
    return Result(
        header=["", "floe", "fedavg", "ratio"],
        rows=rows,
        remarks=[
            f"A round with Floe takes {values['ratio']:.3f} times one with FedAvg; the server's "
            f"own part is {values['server_s']:.2f} s of {values['round_s']:.1f} s.",
            f"{values['clients']} nodes of rank {values['rank']}, {values['local_steps']} local "
            f"steps; medians of {values['repeats']} x {values['rounds']} rounds each.",
        ],
    )
