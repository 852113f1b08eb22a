"""Exact match per task and system, with 95 % intervals, and token F1 below."""

from integration_tests.benchmarks import plotting

#: Taller than others: two rows, and a legend of all systems above them.
_SIZE = (7.0, 6.0)


def draw(values: plotting.Values) -> plotting.Figure:
    figure, (matches, shared) = plotting.new_figure(rows=2, size=_SIZE)
    cells = values["cells"]
    systems = list(dict.fromkeys(cell["system"] for cell in cells))
    names = [task["name"] for task in values["tasks"]]
    groups = [f"{task['name']}\n({_group(task)})" for task in values["tasks"]]
    found = {(cell["system"], cell["task"]): cell for cell in cells}
    for axes, key in ((matches, "exact_match"), (shared, "f1")):
        series = {system: [100 * found[system, name][key] for name in names] for system in systems}
        plotting.grouped_bars(axes, groups, series, legend=False)
        axes.set_ylim(0, 104)
    _intervals(matches, [[found[system, name] for name in names] for system in systems])
    matches.set_ylabel("exact match, %")
    shared.set_ylabel("token F1, %")
    figure.legend(
        *matches.get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9
    )
    return figure


def _intervals(axes: plotting.Axes, systems: list[list[plotting.Values]]) -> None:
    """Draw each bar's interval; the bars are those that `grouped_bars` drew."""
    for container, own in zip(list(axes.containers), systems, strict=True):
        for bar, cell in zip(container, own, strict=True):
            middle = bar.get_x() + bar.get_width() / 2
            axes.vlines(
                middle, 100 * cell["low"], 100 * cell["high"], color=plotting.COLOURS[6], lw=1
            )


def _group(task: plotting.Values) -> str:
    return "in-task" if task["in_task"] else "out-of-task"
