"""Options of the benchmark; see the package for what it compares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

from floe_plugins.errors import ConfigError, FloeError
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.federated_quality import result as summary
from integration_tests.benchmarks.federated_quality.measure import Journal, plan, run_tasks
from integration_tests.benchmarks.federated_quality.protocol import Protocol, default_data

METHODS = ("floe", "fedavg", "hetlora", "flexlora", "flora", "local", "untrained")
#: FLoRA's first round does not end within the budget: it trains nothing, which is no comparison.
DEFAULT_METHODS = tuple(name for name in METHODS if name != "flora")
_DESCRIPTION = (
    "Compares Floe with other ways of federated LoRA by their mean held-out loss, from the same "
    "mixture of tasks on all devices to one task per device; same devices, same data, same "
    "virtual wall-clock budget."
)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    defaults = Protocol()
    parser = cli.parser(_DESCRIPTION)
    parser.prog = parser.prog.removesuffix(".__main__")
    add = parser.add_argument
    add("--seeds", type=_numbers(int), default=(0, 1), help="seeds (0,1)")
    add(
        "--levels",
        type=_numbers(float),
        default=(1.0, 0.5, 0.0),
        help="shares of a device's examples drawn from all tasks alike: 1 is IID, 0 one task per "
        "device (1,0.5,0)",
    )
    add(
        "--methods",
        type=_names,
        default=DEFAULT_METHODS,
        help=f"methods among {', '.join(METHODS)} (all but flora)",
    )
    add(
        "--data",
        default=None,
        help="JSONL files or folders separated by commas, every file one task, or 'embedded' "
        "(GSM8K and PubMedQA of ../shared/data where they are, else the embedded tasks)",
    )
    add("--model", default=defaults.model, help=f"frozen base model ({defaults.model})")
    add(
        "--clients",
        type=cli.at_least_one,
        default=defaults.clients,
        help="devices (%(default)s)",
    )
    add(
        "--devices",
        type=_words,
        default=defaults.devices,
        help="device classes, given out in turn (phone,jetson,laptop)",
    )
    add("--ranks", type=_numbers(int), default=defaults.ranks, help="candidate ranks (4,8,16,32)")
    add("--budget", type=float, default=defaults.budget, help="virtual seconds (%(default)g)")
    add(
        "--local-steps",
        type=cli.at_least_one,
        default=defaults.local_steps,
        help="steps per device and round (%(default)s)",
    )
    add("--batch-size", type=cli.at_least_one, default=defaults.batch_size, help="(%(default)s)")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="(%(default)s)")
    add(
        "--max-length",
        type=int,
        default=defaults.max_length,
        help="tokens of an example (%(default)s)",
    )
    add(
        "--eval-examples",
        type=cli.at_least_one,
        default=defaults.eval_examples,
        help="held-out examples per device (%(default)s)",
    )
    add(
        "--step-seconds",
        type=_numbers(float),
        default=defaults.step_seconds,
        metavar="BASE,PER_RANK",
        help="virtual seconds of a step with slowdown 1 (2.2,0.008)",
    )
    add(
        "--measure-steps",
        action="store_true",
        help="time a step on this machine instead; then the number of rounds depends on it",
    )
    add(
        "--downlink",
        type=float,
        default=defaults.downlink,
        help="times that devices download faster than they upload (%(default)g)",
    )
    add(
        "--jobs",
        type=cli.at_least_one,
        default=2,
        help="worker processes of one thread each (%(default)s)",
    )
    add(
        "--resume",
        type=Path,
        metavar="FILE",
        help="JSONL file that gets results as they come; those that it has are not run again",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = options_from(arguments)
    try:
        _run(options)
    except FloeError as error:
        return cli.failed(error)
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.data is None:
        options.data = default_data()
    if len(options.step_seconds) != 2:
        raise ConfigError(f"--step-seconds needs two numbers, got {len(options.step_seconds)}.")
    protocol = Protocol(**{item.name: getattr(options, item.name) for item in fields(Protocol)})
    for level in options.levels:
        protocol.run_config(level, options.seeds[0])
    if options.measure_steps:
        from integration_tests.benchmarks.federated_quality.world import measured_step_seconds

        protocol = replace(
            protocol, step_seconds=measured_step_seconds(protocol, seed=options.seeds[0])
        )
    described = protocol.described()
    journal = Journal(options.resume, described)
    tasks = plan(options.levels, options.seeds, options.methods, done=journal.records)
    total = sum(len(task.methods) for task in tasks)
    with cli.progress(
        run_tasks(protocol, tasks, jobs=options.jobs), "federated_quality", total=total
    ) as bar:
        for record in bar:
            journal.add(record)
            bar.set_postfix_str(
                f"{record['method']} level {record['level']:g} seed {record['seed']}: "
                f"{record['loss']:.3f}"
            )
    wanted = {
        (level, seed, method): None
        for level in options.levels
        for method in options.methods
        for seed in options.seeds
    }
    by_key = {
        (record["level"], record["seed"], record["method"]): record for record in journal.records
    }
    levels = summary.summarise([by_key[key] for key in wanted])
    cli.show(
        options,
        {"levels": levels, "seeds": list(options.seeds), "protocol": described},
        header=summary.HEADER,
        rows=summary.rows(levels),
        remarks=[*summary.conclusions(levels), _terms(protocol, described, options)],
    )


def _terms(protocol: Protocol, described: dict[str, object], options: argparse.Namespace) -> str:
    data = described["data"]
    named = " and ".join(data) if isinstance(data, dict) else str(data)
    return (
        f"Mean held-out loss over {protocol.clients} devices ({', '.join(protocol.devices)} in "
        f"turn), nats per response token; mean and standard deviation over {len(options.seeds)} "
        f"seeds. {described['model']}, {named}, {protocol.budget:g} virtual seconds, "
        f"{protocol.local_steps} steps of {protocol.batch_size} x {protocol.max_length} tokens a "
        f"round, learning rate {protocol.learning_rate:g}, ranks "
        f"{', '.join(map(str, protocol.ranks))}; a step takes {protocol.step_seconds[0]:.3g} + "
        f"{protocol.step_seconds[1]:.2g} x rank virtual seconds at slowdown 1, downlinks are "
        f"{protocol.downlink:g} times faster than uplinks."
    )


def _numbers(kind: type) -> Callable[[str], tuple[float, ...]]:
    def read(text: str) -> tuple[float, ...]:
        values = tuple(kind(part) for part in text.split(","))
        if len(set(values)) != len(values):
            raise argparse.ArgumentTypeError(f"{text!r} names something twice")
        return values

    read.__name__ = f"comma-separated {kind.__name__}"
    return read


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _names(text: str) -> tuple[str, ...]:
    names = _words(text)
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"{text!r} names no method {', '.join(unknown)}; known: {', '.join(METHODS)}"
        )
    return tuple(dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(cli.command(main))
