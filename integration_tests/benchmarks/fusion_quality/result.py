"""The table of a comparison, and what it comes to in sentences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_DEFAULT_ROUTER = "evidence"
#: Share of the gap that the default router was to close, on average of the texts.
AIM = 0.25


def columns(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the texts' names; with two directions, each with its host."""
    hosts = [f"{_short(pair['host'])}: " if len(pairs) > 1 else "" for pair in pairs]
    return [
        f"{host}{Path(name).name}"
        for host, pair in zip(hosts, pairs, strict=True)
        for name in pair["texts"]
    ]


def rows(pairs: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Return the table: one column per text and direction."""
    texts = [each for pair in pairs for each in pair["texts"].values()]
    first = texts[0]
    return [
        ["host", *(each["host"] for each in texts)],
        ["expert", *(each["expert"] for each in texts)],
        *([f"fused: {name}", *(each["fused"][name] for each in texts)] for name in first["fused"]),
        *([f"peer: {name}", *(each["peers"][name] for each in texts)] for name in first["peers"]),
        ["better per token in hindsight", *(each["hindsight"] for each in texts)],
        *(
            [f"gap closed: {name}", *(_percent(each["gap_closed"][name]) for each in texts)]
            for name in first["fused"]
        ),
        *(
            [
                f"asked above {step['unsure_nats']:g} nats",
                *(
                    f"{each['lazy'][at]['fused']:.4g} ({_percent(each['lazy'][at]['asked_share'])})"
                    for each in texts
                ),
            ]
            for at, step in enumerate(first["lazy"])
        ),
        ["inside an expert token", *(_percent(each["boundary_share"]) for each in texts)],
        ["bytes", *(each["bytes"] for each in texts)],
    ]


def remarks(pair: Mapping[str, Any]) -> list[str]:
    """Say what one direction comes to, with the default router."""
    texts = list(pair["texts"].values())
    fused = [each["fused"][_DEFAULT_ROUTER] for each in texts]
    below = sum(
        bits < min(each["host"], each["expert"]) for bits, each in zip(fused, texts, strict=True)
    )
    peers = sum(bits < min(each["peers"].values()) for bits, each in zip(fused, texts, strict=True))
    said = (
        f"{_short(pair['host'])} hosts: fused with router {_DEFAULT_ROUTER!r}, below both models "
        f"on {below} of {len(texts)} texts, below every peer on {peers}"
    )
    closed = [each["gap_closed"][_DEFAULT_ROUTER] for each in texts]
    known = [share for share in closed if share is not None]
    if not known:
        return [f"{said}."]
    mean = statistics.fmean(known)
    missed = f", missed by {100 * (AIM - mean):.1f} points" if mean < AIM else ", met"
    return [f"{said}; gap closed on average {_percent(mean)} (aim: {_percent(AIM)}{missed})."]


def _short(name: str) -> str:
    return Path(name).name.removeprefix("embedded:")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
