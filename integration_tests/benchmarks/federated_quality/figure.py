"""Held-out loss over the level, one line per method, with the spread over seeds."""

from integration_tests.benchmarks.plotting import Figure, Values, new_figure, series_style

_SHIFT = 0.01


def draw(values: Values) -> Figure:
    figure, (axes,) = new_figure()
    levels = sorted(values["levels"], key=float)
    names = list(dict.fromkeys(name for level in levels for name in values["levels"][level]))
    for at, name in enumerate(names):
        own = [level for level in levels if name in values["levels"][level]]
        found = [values["levels"][level][name] for level in own]
        # Side by side, so that bars of the spread do not hide each other.
        places = [float(level) + _SHIFT * (at - (len(names) - 1) / 2) for level in own]
        axes.errorbar(
            places,
            [each["loss_mean"] for each in found],
            yerr=[each["loss_std"] for each in found],
            label=name,
            **series_style(at),
            linewidth=2.5 if name == "floe" else 1.2,
            capsize=3,
        )
    axes.set_xticks([float(level) for level in levels], levels)
    axes.set_xlabel("level: 0 is one task per device, 1 all devices alike")
    axes.set_ylabel("held-out loss, nats per token")
    axes.legend(fontsize=9, ncols=2)
    return figure
