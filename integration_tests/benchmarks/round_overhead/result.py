"""The table, and what it says."""

from integration_tests.benchmarks.cli import Namespace, Result, Values


def result(values: Values, _: Namespace) -> Result:
    """Return a row for whole rounds, and one for the server's own part."""
    own, other = values["server_s"], values["fedavg_server_s"]
    return Result(
        header=["", "floe", "fedavg", "ratio"],
        rows=[
            ["round, s", values["round_s"], values["fedavg_round_s"], values["ratio"]],
            ["server's own, s", own, other, own / other],
        ],
        remarks=[
            f"A round with Floe takes {values['ratio']:.3f} times one with FedAvg; the server's "
            f"own part is {own:.2f} s of {values['round_s']:.1f} s.",
            f"{values['clients']} nodes of rank {values['rank']}, {values['local_steps']} local "
            f"steps; medians of {values['repeats']} x {values['rounds']} rounds each.",
        ],
    )
