"""Seconds of a round and of the server's own part, Floe beside FedAvg."""

from integration_tests.benchmarks.plotting import Figure, Values, grouped_bars, new_figure


def draw(values: Values) -> Figure:
    figure, (whole, own) = new_figure(2)
    for axes, title, keys in (
        (whole, "a whole round", ("round_s", "fedavg_round_s")),
        (own, "the server's own part", ("server_s", "fedavg_server_s")),
    ):
        floe, fedavg = (values[key] for key in keys)
        grouped_bars(axes, ["Floe", "FedAvg"], {title: [floe, fedavg]}, legend=False)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel("seconds")
    return figure
