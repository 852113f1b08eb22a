"""Seconds of a round over the LoRA rank, per class of device, measured and as the policy predicts.

The real client trains SmolLM2 at every rank on the clock of a simulated device (processor time per
thread, so other work on the machine does not lengthen it). Before that the device measures itself
as in a run: one step at the smallest rank and one at the largest
(`flower_strategy.device.training_cost`). The rank policy knows these two alone and draws a line
through them; the ranks between show how far the line is off. A class of device is this machine's
seconds times its slowdown, and its uplink.

Figure 4 of "Floe: Federated Specialization for Real-Time LLM-SLM Inference" (arXiv 2602.14302).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from floe_plugins.errors import FloeError
from flower_strategy.adapters.adapter import initial_adapter
from flower_strategy.data.embedded import make_examples
from flower_strategy.data.examples import Example
from flower_strategy.data.jsonl import find_files, read_examples
from flower_strategy.device.base_model import BaseModel, layer_shapes, load_base_model
from flower_strategy.device.hardware import DEVICE_CLASSES, Device, Stopwatch, parse_device
from flower_strategy.device.training import train_adapter
from flower_strategy.device.training_cost import TrainingCost, measure_training
from flower_strategy.settings import TrainingSettings
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import task_files
from integration_tests.benchmarks.rank_latency.rounds import Measured, compare

DEFAULT_MODEL = "embedded:smollm2-135m-instruct"
RANKS = (4, 8, 16, 32, 64)
_EXAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is timed: a base model, a device's examples, and how it trains on them."""

    base: BaseModel
    examples: tuple[Example, ...]
    settings: TrainingSettings
    device: Device


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    try:
        values = measure(options)
    except FloeError as error:
        return cli.failed(error)
    cli.show(
        options,
        values,
        header=["class", "rank", "training, s", "upload, s", "round, s", "predicted, s", "off, %"],
        rows=[
            [
                name,
                *(each[key] for key in ("rank", "training_s", "upload_s", "round_s")),
                each["predicted_s"],
                f"{each['error_percent']:+.1f}" + (" (fitted)" if each["fitted"] else ""),
            ]
            for name, device in values["classes"].items()
            for each in device["rounds"]
        ],
        remarks=remarks(values),
    )
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time all ranks and return the figures."""
    classes = {device.name: device for device in map(parse_device, options.devices)}
    bench = _bench(options)
    shapes = layer_shapes(bench.base.model)
    initial = {
        rank: initial_adapter(shapes, rank=rank, seed=options.seed) for rank in options.ranks
    }
    costs: list[TrainingCost] = []
    seconds: dict[int, list[float]] = {rank: [] for rank in options.ranks}
    ends = (options.ranks[0], options.ranks[-1])
    for repeat in cli.progress(range(options.repeats), "rank_latency"):
        costs.append(
            measure_training(bench.base, bench.examples, bench.settings, bench.device, ranks=ends)
        )
        for rank in options.ranks:
            watch = Stopwatch(bench.device, threads=torch.get_num_threads())
            train_adapter(
                bench.base,
                initial[rank],
                bench.examples,
                bench.settings,
                order_seed=(options.seed, repeat),
            )
            seconds[rank].append(watch.seconds() / bench.settings.local_steps)
    measured = Measured(
        step_seconds={rank: statistics.median(all_of) for rank, all_of in seconds.items()},
        upload_bytes={
            rank: sum(len(array.data) for array in adapter.to_arrays().values())
            for rank, adapter in initial.items()
        },
        costs=tuple(costs),
        examples=len(bench.examples),
    )
    compared = compare(measured, classes, local_steps=options.local_steps)
    return {
        "model": options.model,
        "seed": options.seed,
        "repeats": options.repeats,
        "threads": options.threads,
        "batch_size": options.batch_size,
        "max_length": options.max_length,
        "local_steps": options.local_steps,
        "step_seconds": {str(rank): all_of for rank, all_of in seconds.items()},
        "upload_bytes": {str(rank): size for rank, size in measured.upload_bytes.items()},
        "probes": [list(cost.step_seconds) for cost in costs],
        **compared,
    }


def remarks(values: dict[str, Any]) -> list[str]:
    """Return what the figures say, as sentences."""
    ranks = [int(rank) for rank in values["step_seconds"]]
    steps = {rank: statistics.median(values["step_seconds"][str(rank)]) for rank in ranks}
    low, high = ranks[0], ranks[-1]
    found = [
        f"A step of {values['batch_size']} x {values['max_length']} tokens takes "
        f"{steps[low]:.2f} s at rank {low} and {steps[high]:.2f} s at rank {high}, "
        f"{steps[high] / steps[low]:.2f} times as long; an adapter's upload grows "
        f"{high / low:.0f} times, from {values['upload_bytes'][str(low)] / 1e6:.1f} to "
        f"{values['upload_bytes'][str(high)] / 1e6:.1f} MB. Each rank was trained "
        f"{values['repeats']} times for {values['local_steps']} steps; medians.",
    ]
    between = [
        abs(each["error_percent"])
        for device in values["classes"].values()
        for each in device["rounds"]
        if not each["fitted"]
    ]
    single = values["single_probe_error_percent"]
    if between:
        found.append(
            "Rounds at the ranks between, which are not probed, are predicted within "
            f"{max(between):.1f} % (mean {statistics.fmean(between):.1f} %) by the line through "
            f"ranks {low} and {high}, fitted to the medians of the probes; a step alone, predicted "
            f"by one probe as a device makes it, is off by {single['least']:+.1f} to "
            f"{single['most']:+.1f} %."
        )
    for name, device in values["classes"].items():
        last = device["rounds"][-1]
        found.append(
            f"{name}: {last['upload_s'] / last['round_s'] * 100:.0f} % of a round at rank {high} "
            f"is upload; the round takes {last['round_s'] / device['rounds'][0]['round_s']:.2f} "
            f"times as long as at rank {low}."
        )
    same = values["homogeneous"]
    given = ", ".join(f"{name} {rank}" for name, rank in same["ranks"].items())
    found.append(
        f"With the deadline that the policy finds by itself ({same['deadline_s']:.0f} s) ranks are "
        f"{given}, and the round takes {same['round_s']:.1f} s; with rank {high} on all devices it "
        f"would take {same['homogeneous_s']:.1f} s, {same['ratio']:.2f} times as long, since all "
        f"wait for {same['slowest']}."
    )
    found.append(_deadlines(values))
    return found


def _deadlines(values: dict[str, Any]) -> str:
    parts = []
    for name in values["classes"]:
        reached: dict[int | None, float] = {}
        for each in values["deadlines"]:
            reached.setdefault(each["ranks"][name], each["deadline_s"])
        words = [
            f"rank {rank} from {deadline:.0f} s"
            for rank, deadline in reached.items()
            if rank is not None
        ]
        parts.append(f"{name} {', '.join(words) or 'none'}")
    tried = values["deadlines"]
    return (
        f"Of {len(tried)} deadlines from {tried[0]['deadline_s']:.0f} to "
        f"{tried[-1]['deadline_s']:.0f} s, the first that gives a class a rank: "
        + "; ".join(parts)
        + "."
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = cli.parser(
        "Seconds of a federated round over the LoRA rank, per class of device; what the rank "
        "policy predicts from two ranks against what training takes."
    )
    add = parser.add_argument
    add("--model", default=DEFAULT_MODEL, help="base model (%(default)s)")
    add("--ranks", type=int, nargs="+", default=RANKS, help="ranks (4 8 16 32 64)")
    add(
        "--devices",
        nargs="+",
        default=tuple(DEVICE_CLASSES),
        help="device classes, or NAME:GIB:SLOWDOWN:MBPS (all classes that are known)",
    )
    add(
        "--data",
        help="JSONL files separated by commas (GSM8K and PubMedQA where they are found, else "
        "embedded arithmetic)",
    )
    add("--local-steps", type=int, default=4, help="steps of a round (%(default)s)")
    add("--batch-size", type=int, default=2, help="(%(default)s)")
    add("--max-length", type=int, default=64, help="tokens of an example (%(default)s)")
    add("--repeats", type=int, default=3, help="trainings at each rank (%(default)s)")
    add("--threads", type=int, default=1, help="(%(default)s)")
    add("--seed", type=int, default=0, help="of adapters and batches (%(default)s)")
    options = parser.parse_args(arguments)
    options.ranks = sorted(set(options.ranks))
    counts = ("local_steps", "batch_size", "repeats", "threads")
    if min(options.ranks[0], options.max_length - 1, *(getattr(options, n) for n in counts)) < 1:
        parser.error("ranks, steps, sizes, repeats and threads are at least 1, --max-length 2")
    if len(options.ranks) < 2:
        parser.error(f"--ranks needs two ranks or more for a line, got {options.ranks}")
    return options


def _bench(options: argparse.Namespace) -> Bench:
    base = load_base_model(options.model)
    files = task_files() if options.data is None else list(find_files(options.data).values())
    if files:
        each = -(-_EXAMPLES // len(files))
        examples = [example for file in files for example in read_examples(file)[:each]]
    else:
        examples = make_examples("arithmetic", count=_EXAMPLES, seed=options.seed)
    return Bench(
        base=base,
        examples=tuple(examples),
        settings=TrainingSettings(
            model=options.model,
            local_steps=options.local_steps,
            batch_size=options.batch_size,
            max_length=options.max_length,
            seed=options.seed,
        ),
        device=Device(name="this", memory_bytes=0, simulated=True),
    )


if __name__ == "__main__":
    sys.exit(cli.command(main))
