"""The table, and the result of each direction."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from integration_tests.benchmarks.cli import Namespace, Result, Values

_DEFAULT_ROUTER = "evidence"
#: The key of the bits with an expert whose tokenizer is not known.
WITHOUT_TOKENIZER = "fused_without_tokenizer"
#: Share of the gap that the default router was to close, on average of the texts.
AIM = 0.25


def result(values: Values, _: Namespace) -> Result:
    """Return one column per text and direction."""
    pairs = pairs_of(values)
    return Result(
        header=["bits per byte", *_columns(pairs)],
        rows=_rows(pairs),
        remarks=[
            *(remark for pair in pairs for remark in _remarks(pair)),
            *_lost(pairs),
            f"Top {values['top_k']} of the expert. In the lazy rows the router is evidence and the "
            "share of tokens asked stands in brackets.",
        ],
    )


def pairs_of(values: Values) -> list[Values]:
    """Return each pair of a host and an expert, with its figures."""
    return [
        pair
        for both in (values, *values.get("further", []))
        for pair in (both, *([both["reversed"]] if "reversed" in both else []))
    ]


def roles(pair: Values) -> str:
    """Say which model hosts, and which one is its expert."""
    return f"{_short(pair['host'])} hosts, {_short(pair['expert'])} helps"


def _columns(pairs: Sequence[Values]) -> list[str]:
    """Return the texts' names; of several pairs, each with its models."""
    named = [(f"{roles(pair)}: " if len(pairs) > 1 else "", pair) for pair in pairs]
    return [f"{both}{Path(name).name}" for both, pair in named for name in pair["texts"]]


def _rows(pairs: Sequence[Values]) -> list[list[Any]]:
    texts = [each for pair in pairs for each in pair["texts"].values()]
    first = texts[0]
    return [
        ["host", *(each["host"] for each in texts)],
        ["expert", *(each["expert"] for each in texts)],
        *([f"fused: {name}", *(each["fused"][name] for each in texts)] for name in first["fused"]),
        *_rows_without_tokenizer(texts),
        *([f"peer: {name}", *(each["peers"][name] for each in texts)] for name in first["peers"]),
        ["better per token in hindsight", *(each["hindsight"] for each in texts)],
        *(
            [f"gap closed: {name}", *(_percent(each["gap_closed"][name]) for each in texts)]
            for name in first["fused"]
        ),
        *(
            [
                f"asked above {step['unsure_nats']:g} nats"
                if "unsure_nats" in step
                else f"asked up to a margin of {step['unsure_margin']:g}",
                *(_asked(each["lazy"][at]) for each in texts),
            ]
            for at, step in enumerate(first["lazy"])
        ),
        ["inside an expert token", *(_percent(each["boundary_share"]) for each in texts)],
        ["bytes", *(each["bytes"] for each in texts)],
    ]


def _remarks(pair: Values) -> list[str]:
    """Say what one direction achieves with the default router."""
    texts = list(pair["texts"].values())
    fused = [each["fused"][_DEFAULT_ROUTER] for each in texts]
    below = sum(
        bits < min(each["host"], each["expert"]) for bits, each in zip(fused, texts, strict=True)
    )
    peers = sum(bits < min(each["peers"].values()) for bits, each in zip(fused, texts, strict=True))
    said = (
        f"{roles(pair)}: fused with router {_DEFAULT_ROUTER!r}, below both models "
        f"on {below} of {len(texts)} texts, below every peer on {peers}"
    )
    closed = [each["gap_closed"][_DEFAULT_ROUTER] for each in texts]
    known = [share for share in closed if share is not None]
    if not known:
        return [f"{said}."]
    mean = statistics.fmean(known)
    missed = f", missed by {100 * (AIM - mean):.1f} points" if mean < AIM else ", met"
    return [f"{said}; gap closed on average {_percent(mean)} (aim: {_percent(AIM)}{missed})."]


def _rows_without_tokenizer(texts: Sequence[Values]) -> list[list[Any]]:
    """Return the row of an expert whose tokenizer is not known; none for older figures."""
    if not all(WITHOUT_TOKENIZER in each for each in texts):
        return []
    bits = [each[WITHOUT_TOKENIZER] for each in texts]
    return [[f"fused: {_DEFAULT_ROUTER}, tokenizer not known", *bits]]


def _lost(pairs: Sequence[Values]) -> list[str]:
    """Say what fusion loses where the expert's tokenizer is not known."""
    said = []
    for pair in pairs:
        texts = [each for each in pair["texts"].values() if WITHOUT_TOKENIZER in each]
        if not texts:
            continue
        known = [each["fused"][_DEFAULT_ROUTER] for each in texts]
        bits = [each[WITHOUT_TOKENIZER] for each in texts]
        lost = [without / with_it - 1 for without, with_it in zip(bits, known, strict=True)]
        below = sum(each[WITHOUT_TOKENIZER] < each["host"] for each in texts)
        said.append(
            f"{roles(pair)}: without the expert's tokenizer fusion with router "
            f"{_DEFAULT_ROUTER!r} takes {_more(statistics.fmean(lost))} on average, from "
            f"{_more(min(lost))} to {_more(max(lost))}, and is below the host on {below} of "
            f"{len(texts)} texts."
        )
    return said


def _more(share: float) -> str:
    return f"{_percent(abs(share))} {'more' if share > 0 else 'fewer'} bits"


def _asked(step: Values) -> str:
    return f"{step['fused']:.4g} ({_percent(step['asked_share'])})"


def _short(name: str) -> str:
    return Path(name).name.removeprefix("embedded:")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
