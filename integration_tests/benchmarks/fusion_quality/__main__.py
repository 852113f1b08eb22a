"""Options of the benchmark; see the package for what it measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from floe_plugins.errors import FloeError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.fusion_quality import result as summary
from integration_tests.benchmarks.fusion_quality.documents import default_texts, read_text
from integration_tests.benchmarks.fusion_quality.measure import Comparison
from integration_tests.benchmarks.fusion_quality.scoring import Scorer
from integration_tests.benchmarks.models import GEMMA, SMOLLM2

_DESCRIPTION = (
    "Bits per byte, lower is better, of the host, the expert and the fused model with every "
    "router on real text; of the better model per token in hindsight, which no router can know; "
    "and of other ways to bring two vocabularies together."
)


def options_from(arguments: Sequence[str] | None) -> tuple[argparse.ArgumentParser, Any]:
    """Read the command line."""
    parser = cli.parser(_DESCRIPTION)
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add("--host", default=GEMMA, help="the host: embedded:NAME, a folder or a hub id (%(default)s)")
    add("--expert", default=SMOLLM2, help="the expert, likewise (%(default)s)")
    add("--reversed", action="store_true", help="in the other direction as well")
    add(
        "--text",
        nargs="+",
        metavar="FILE",
        help="a .jsonl file is one document per line, in its key 'text' or with question and "
        "answer; any other file one document; embedded:TASK an embedded task (GSM8K and PubMedQA "
        "of ../shared/data where they are there, and embedded:code)",
    )
    add("--limit-bytes", type=cli.at_least_one, help="read at most this much of each file")
    add("--seed", type=int, default=0, help="of the embedded tasks (%(default)s)")
    add(
        "--top-k",
        type=cli.at_least_one,
        default=100,
        help="tokens that the expert tells of each distribution (%(default)s)",
    )
    return parser, parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser, options = options_from(arguments)
    try:
        texts = {
            name: read_text(name, seed=options.seed, limit_bytes=options.limit_bytes)
            for name in options.text or default_texts()
        }
        host = Scorer(options.host)
        expert = host if options.expert == options.host else Scorer(options.expert)
        pairs = [(host, expert), *([(expert, host)] if options.reversed else [])]
        for _, asked in pairs:
            if options.top_k > len(asked.vocabulary):
                parser.error(
                    f"--top-k is {options.top_k}; the expert has {len(asked.vocabulary)} tokens"
                )
        found = [_compare(*pair, texts, top_k=options.top_k) for pair in pairs]
    except FloeError as error:
        return cli.failed(error)
    values = {**found[0], "top_k": options.top_k, "seed": options.seed}
    if options.reversed:
        values["reversed"] = found[1]
    cli.show(
        options,
        values,
        header=["bits per byte", *summary.columns(found)],
        rows=summary.rows(found),
        remarks=[remark for pair in found for remark in summary.remarks(pair)]
        + [
            f"Top {options.top_k} of the expert. In the lazy rows the router is evidence and the "
            "share of tokens asked stands in brackets."
        ],
    )
    return 0


def _compare(
    host: Scorer, expert: Scorer, texts: Mapping[str, Sequence[bytes]], *, top_k: int
) -> dict[str, Any]:
    comparison = Comparison(host, expert, top_k=top_k)
    found = {
        name: comparison.on(cli.progress(documents, Path(name).name))
        for name, documents in texts.items()
    }
    return {"host": host.name, "expert": expert.name, "texts": found}


if __name__ == "__main__":
    sys.exit(cli.command(main))
