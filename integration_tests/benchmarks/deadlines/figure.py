"""Milliseconds per token over the deadline, and the share of tokens that both models decided."""

from integration_tests.benchmarks import plotting


def draw(values: plotting.Values) -> plotting.Figure:
    figure, (times, shares) = plotting.new_figure(2)
    cells, alone = values["cells"], values["host_alone"]
    for at, latency in enumerate(dict.fromkeys(cell["latency_steps"] for cell in cells)):
        row = [cell for cell in cells if cell["latency_steps"] == latency]
        style = plotting.series_style(at)
        xs = [cell["deadline_ms"] for cell in row]
        name = f"{latency:g} steps away"
        times.plot(xs, [cell["token_p50_ms"] for cell in row], label=name, **style)
        times.plot(xs, [cell["token_p99_ms"] for cell in row], linestyle=":", **style)
        shares.plot(xs, [100 * cell["fused"] for cell in row], label=name, **style)
    plotting.reference(times, alone["token_p50_ms"], "host alone")
    times.set_ylim(bottom=0)
    times.set_ylabel("ms per token (line: median, dots: p99)")
    shares.set_ylim(0, 103)
    shares.set_ylabel("tokens fused, %")
    # Where the lines leave room in both.
    shares.legend(fontsize=9, title="expert (median)", title_fontsize=9)
    for axes in (times, shares):
        axes.set_xlabel("deadline, ms")
        axes.set_xlim(left=0)
    return figure
