"""What each part of Floe's protocol changes, from methods that differ in that part alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

#: Part -> the method without it, and the one with it. FlexLoRA takes the exact mean as Floe does.
PARTS = {
    "transport": ("flexlora", "flexlora:int8"),
    "steps": ("flexlora:int8", "flexlora:int8:filled"),
    "kept state": ("flexlora:int8:filled", "floe"),
    "sharing": ("local", "floe"),
}


def ablation(
    levels: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Return level -> part -> ``mean`` and ``std`` of the loss with it less that without it.

    They are over the seeds, in nats per response token; a part of which a method was not run is
    left out.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for level, methods in levels.items():
        for part, (without, having) in PARTS.items():
            if without not in methods or having not in methods:
                continue
            before, after = methods[without]["losses"], methods[having]["losses"]
            changes = [after[seed] - before[seed] for seed in before if seed in after]
            found.setdefault(level, {})[part] = {
                "mean": statistics.fmean(changes),
                "std": statistics.stdev(changes) if len(changes) > 1 else 0.0,
            }
    return found


def ablation_remarks(parts: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """Return a sentence for each level."""
    said = []
    for level, changes in parts.items():
        each = (
            f"{part} ({PARTS[part][0]} to {PARTS[part][1]}) {one['mean']:+.3f} ± {one['std']:.3f}"
            for part, one in changes.items()
        )
        said.append(f"Level {level}, what a part changes in the loss: {', '.join(each)}.")
    return said
