"""Options of the benchmark; see the package for what it measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from integration_tests.benchmarks import common
from integration_tests.benchmarks.fusion_quality.comparison import Comparison
from integration_tests.benchmarks.fusion_quality.documents import read_documents
from integration_tests.benchmarks.fusion_quality.scoring import Scorer

_DESCRIPTION = (
    "Bits per byte, lower is better, of the host, the expert and the fused model with every "
    "router on real text; of the better model per token in hindsight, which no router can know; "
    "and of other ways to bring two vocabularies together."
)


def options_from(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, Any]:
    """Read the command line."""
    parser = common.parser(_DESCRIPTION)
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add("--host", required=True, help="the host: embedded:NAME, a folder or a hub id")
    add("--expert", required=True, help="the expert, likewise")
    add(
        "--text",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a .jsonl file is one document per line in its key 'text', any other one document",
    )
    add("--limit-bytes", type=_at_least_one, help="read at most this much of each file")
    add(
        "--top-k",
        type=_at_least_one,
        default=100,
        help="tokens that the expert tells of each distribution (%(default)s)",
    )
    return parser, parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser, options = options_from(arguments)
    try:
        texts = {
            str(path): read_documents(path, limit_bytes=options.limit_bytes)
            for path in options.text
        }
        host = Scorer(options.host)
        expert = host if options.expert == options.host else Scorer(options.expert)
        if options.top_k > len(expert.vocabulary):
            parser.error(
                f"--top-k is {options.top_k}; the expert has {len(expert.vocabulary)} tokens"
            )
        comparison = Comparison(host, expert, top_k=options.top_k)
        found = {}
        for name, documents in texts.items():
            found[name] = comparison.on(common.progress(documents, Path(name).name))
    except FloeError as error:
        print(f"fusion_quality: {error}", file=sys.stderr)
        return 1
    _show(options, found)
    return 0


def _show(options: argparse.Namespace, found: Mapping[str, Mapping[str, Any]]) -> None:
    columns = list(found.values())
    first = columns[0]
    rows: list[list[Any]] = [
        [f"host: {options.host}", *(each["host"] for each in columns)],
        [f"expert: {options.expert}", *(each["expert"] for each in columns)],
        *(
            [f"fused: {name}", *(each["fused"][name] for each in columns)]
            for name in first["fused"]
        ),
        *([f"peer: {name}", *(each["peers"][name] for each in columns)] for name in first["peers"]),
        ["better per token in hindsight", *(each["hindsight"] for each in columns)],
        *(
            [f"gap closed: {name}", *(_percent(each["gap_closed"][name]) for each in columns)]
            for name in first["fused"]
        ),
        *(
            [
                f"asked above {step['unsure_nats']:g} nats",
                *(
                    f"{each['lazy'][at]['fused']:.4g} ({_percent(each['lazy'][at]['asked_share'])})"
                    for each in columns
                ),
            ]
            for at, step in enumerate(first["lazy"])
        ),
        ["inside an expert token", *(_percent(each["boundary_share"]) for each in columns)],
        ["bytes", *(each["bytes"] for each in columns)],
    ]
    common.show(
        options,
        {"host": options.host, "expert": options.expert, "top_k": options.top_k, "texts": found},
        header=["bits per byte", *(Path(name).name for name in found)],
        rows=rows,
        remarks=[
            f"Top {options.top_k} of the expert. In the lazy rows the router is evidence and the "
            "share of tokens asked stands in brackets."
        ],
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is accepted, not {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
