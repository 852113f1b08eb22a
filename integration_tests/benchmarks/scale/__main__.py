"""Options of the benchmark; see the package for what it measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from floe_plugins.errors import FloeError
from flower_strategy.device.base_model import adapted_shapes
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.scale import measure as federated
from integration_tests.benchmarks.scale import replies, serving
from integration_tests.benchmarks.scale import result as summary

DEFAULT_MODEL = "embedded:smollm2-135m-instruct"
DEVICES = (1_000, 2_000, 10_000)
STREAMS = (1, 100, 1_000)
TOP_K = (20, 100, 1_000)
_DESCRIPTION = (
    "Server time, memory and bytes of a federation of up to 10,000 devices, and of up to 1,000 "
    "streams that share an expert."
)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = cli.parser(_DESCRIPTION)
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="base model; its shapes alone count (%(default)s)")
    add("--devices", type=int, nargs="+", default=DEVICES, help="(1000 2000 10000)")
    add(
        "--blocks",
        type=int,
        default=1,
        help="blocks of the model that the devices' adapters have in the runs (%(default)s)",
    )
    add(
        "--terms",
        type=int,
        default=256,
        help="rank-one terms of the replies at the model's real size, per rank (%(default)s)",
    )
    add("--streams", type=int, nargs="+", default=STREAMS, help="(1 100 1000)")
    add("--k", type=int, nargs="+", default=TOP_K, help="logprobs per stream (20 100 1000)")
    add("--text", type=int, default=512, help="expert tokens of a stream's text (%(default)s)")
    add("--calls", type=int, default=3, help="timed calls of each size (%(default)s)")
    add("--repeats", type=int, default=15, help="timed fusions of each K (%(default)s)")
    add(
        "--forward-ms",
        type=float,
        default=50.0,
        help="milliseconds of the host's forward pass to reckon with (%(default)g)",
    )
    add("--seed", type=int, default=0, help="of embeddings and adapters (%(default)s)")
    options = parser.parse_args(arguments)
    counts = (options.blocks, options.terms, options.text, options.calls, options.repeats)
    if min(*counts, *options.streams, *options.k) < 1 or options.forward_ms <= 0:
        parser.error("all numbers are at least 1, --forward-ms above 0")
    if min(options.devices) < 200:
        parser.error(f"--devices are at least 200 each, got {min(options.devices)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = options_from(arguments)
    torch.set_num_threads(1)
    try:
        values = measure(options)
    except FloeError as error:
        return cli.failed(error)
    cli.show(
        options,
        values,
        header=summary.HEADER,
        rows=summary.rows(values),
        remarks=summary.remarks(values),
    )
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both halves and return the figures."""
    shapes = adapted_shapes(options.model)
    all_blocks = federated.count_blocks(shapes)
    runs = [
        federated.run(
            options.model,
            shapes,
            blocks=options.blocks,
            devices=devices,
            seed=options.seed,
        )
        for devices in cli.progress(sorted(options.devices), "runs")
    ]
    return {
        "model": options.model,
        "seed": options.seed,
        "blocks": min(options.blocks, all_blocks),
        "all_blocks": all_blocks,
        "forward_ms": options.forward_ms,
        "text": options.text,
        "runs": runs,
        "whole": replies.measure(shapes, federated.RANKS, terms=options.terms, seed=options.seed),
        **serving.measure(
            sorted(options.streams),
            sorted(options.k),
            text=options.text,
            calls=options.calls,
            repeats=options.repeats,
        ),
    }


if __name__ == "__main__":
    sys.exit(cli.command(main))
