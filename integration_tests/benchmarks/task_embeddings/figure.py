"""Cosines of the nodes' embeddings, ordered by cluster: without noise, and with the most."""

import numpy as np

from integration_tests.benchmarks.plotting import Figure, Values, new_figure

_SIZE = (7.0, 4.4)


def draw(values: Values) -> Figure:
    levels = sorted(values["levels"], key=lambda level: float(level["noise"]))
    shown = [levels[0]] if len(levels) == 1 else [levels[0], levels[-1]]
    nodes = values["nodes"]
    order = sorted(
        range(len(nodes)), key=lambda at: (shown[0]["labels"][at], nodes[at]["task"], at)
    )
    figure, every = new_figure(columns=len(shown), size=_SIZE)
    for axes, level in zip(every, shown, strict=True):
        cosines = np.array(level["cosines"])[np.ix_(order, order)]
        image = axes.imshow(cosines, cmap="Greys", vmin=min(0.0, cosines.min()), vmax=1.0)
        axes.grid(visible=False)
        axes.set_title(f"noise {level['noise']:g}, {level['clusters']} clusters", fontsize=10)
        axes.set_xticks(range(len(order)), [str(at) for at in order], fontsize=9, rotation=90)
        axes.set_xlabel("node")
        # Between the clusters that a run without noise makes.
        for at in range(1, len(order)):
            if shown[0]["labels"][order[at]] != shown[0]["labels"][order[at - 1]]:
                axes.axhline(at - 0.5, color="black", linewidth=1)
                axes.axvline(at - 0.5, color="black", linewidth=1)
        axes.set_yticks([])
    every[0].set_yticks(range(len(order)), [nodes[at]["name"] for at in order], fontsize=9)
    figure.colorbar(image, ax=every, label="cosine", orientation="horizontal", shrink=0.6)
    return figure
