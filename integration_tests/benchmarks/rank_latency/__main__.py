"""Options of the benchmark."""

from flower_strategy.device.hardware import DEVICE_CLASSES
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import SMOLLM2
from integration_tests.benchmarks.rank_latency.measure import measure
from integration_tests.benchmarks.rank_latency.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--model", SMOLLM2, "base model")
OPTIONS.add("--ranks", (4, 8, 16, 32, 64), least=1)
OPTIONS.add("--devices", tuple(DEVICE_CLASSES), "classes, or NAME:GIB:SLOWDOWN:MBPS")
OPTIONS.add("--data", help="JSONL files separated by commas (those beside the project)")
OPTIONS.add("--local-steps", 4, "steps of a round", least=1)
OPTIONS.add("--batch-size", 2, least=1)
OPTIONS.add("--max-length", 64, "tokens of an example", least=2)
OPTIONS.add("--repeats", 3, "trainings at each rank", least=1)
OPTIONS.add("--threads", 1, least=1)
OPTIONS.add("--seed", 0, "of adapters and batches")


def check(options: cli.Namespace) -> str | None:
    """Bring the ranks in order; say that one alone makes no line."""
    options.ranks = ranks = sorted(set(options.ranks))
    return f"--ranks needs two ranks or more for a line, got {ranks}" if len(ranks) < 2 else None


main = cli.main_of(OPTIONS, measure, result, check=check)

if __name__ == "__main__":
    cli.run(main)
