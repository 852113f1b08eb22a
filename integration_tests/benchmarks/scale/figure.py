"""Server seconds and memory over the devices; bandwidth of expert calls over the streams."""

from integration_tests.benchmarks import plotting

#: Taller than others: three small plots, two above one another.
_SIZE = (7.0, 6.0)


def draw(values: plotting.Values) -> plotting.Figure:
    figure, (seconds, memory, replies, streams) = plotting.new_figure(columns=2, rows=2, size=_SIZE)
    runs = values["runs"]
    devices = [run["devices"] for run in runs]
    stages = ("replies", "clustering", "sending", "evaluation", "export")
    plotting.lines(
        seconds, devices, {name: [run["seconds"][name] for run in runs] for name in stages}
    )
    seconds.set_yscale("log")
    seconds.legend(fontsize=9, framealpha=0.5)
    seconds.set_ylabel("processor seconds, logarithmic")
    plotting.lines(
        memory,
        devices,
        {
            name: [run["peak_mib"].get(name, float("nan")) / 1024 for run in runs]
            for name in ("replies", "clustering")
        },
    )
    memory.set_ylabel("peak memory, GiB")
    for axes in (seconds, memory):
        axes.set_xscale("log")
        axes.set_xlabel("devices")
        axes.set_xticks(devices, [str(number) for number in devices])
        axes.minorticks_off()
    for at, run in enumerate(runs):
        replies.plot(
            [tenth["replies"] for tenth in run["tenths"]],
            [tenth["resident_mib"] for tenth in run["tenths"]],
            **plotting.series_style(at),
            markersize=4,
            label=f"{run['devices']} devices",
        )
    replies.set_ylim(0, 1.1 * replies.get_ylim()[1])
    replies.set_xlabel("replies folded in")
    replies.set_ylabel("resident memory, MiB")
    replies.legend(fontsize=9, loc="lower right")
    calls = values["calls"]
    steps = 1000 / values["forward_ms"]
    for at, k in enumerate(sorted({call["k"] for call in calls})):
        own = [call for call in calls if call["k"] == k]
        streams.plot(
            [call["streams"] for call in own],
            [8e-6 * steps * (call["bytes_up"] + call["bytes_down"]) for call in own],
            **plotting.series_style(at),
            label=f"K = {k}",
        )
    streams.set_xscale("log")
    streams.set_yscale("log")
    streams.set_xlabel("streams in a call")
    streams.set_ylabel(f"Mbit/s at {steps:.0f} steps/s")
    streams.legend(fontsize=9)
    return figure
