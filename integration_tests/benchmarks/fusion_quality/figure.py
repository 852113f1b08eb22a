"""Bits per byte of each text: the models alone, fused, the best peer, and hindsight."""

from pathlib import Path

from integration_tests.benchmarks.fusion_quality.result import WITHOUT_TOKENIZER, pairs_of, roles
from integration_tests.benchmarks.plotting import Figure, Values, grouped_bars, new_figure


def _without_tokenizer(texts: Values) -> dict[str, list[float]]:
    """Return the bars of an expert whose tokenizer is not known; none for older figures."""
    bits = [each[WITHOUT_TOKENIZER] for each in texts.values() if WITHOUT_TOKENIZER in each]
    return {"fused, tokenizer not known": bits} if len(bits) == len(texts) else {}


def draw(values: Values) -> Figure:
    pairs = pairs_of(values)
    figure, panels = new_figure(rows=len(pairs), size=(7.0, 3.4 * len(pairs)))
    for axes, pair in zip(panels, pairs, strict=True):
        texts = pair["texts"]
        grouped_bars(
            axes,
            [Path(name).stem.removeprefix("embedded:").replace("_", "\n") for name in texts],
            {
                "host alone": [each["host"] for each in texts.values()],
                "expert alone": [each["expert"] for each in texts.values()],
                "fused, evidence": [each["fused"]["evidence"] for each in texts.values()],
                **_without_tokenizer(texts),
                "best peer": [min(each["peers"].values()) for each in texts.values()],
                "hindsight per token": [each["hindsight"] for each in texts.values()],
            },
            legend=axes is panels[0],
        )
        # What differs is at the top of the bars.
        lowest = min(each["hindsight"] for each in texts.values())
        axes.set_ylim(bottom=0.7 * lowest)
        axes.set_ylabel("bits per byte")
        axes.set_title(roles(pair), fontsize=10)
    return figure
