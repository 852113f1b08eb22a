"""Options of the benchmark."""

from flower_strategy.config_keys import EXPORT_RANKS
from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import SMOLLM2
from integration_tests.benchmarks.round_overhead.measure import measure
from integration_tests.benchmarks.round_overhead.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--model", SMOLLM2, "base model, a name or a folder")
OPTIONS.add("--rounds", 4, "timed rounds per run", least=2)
OPTIONS.add("--clients", 4, "nodes; FedAvg asks for two", least=2)
OPTIONS.add("--rank", 8, "LoRA rank of every node", choices=EXPORT_RANKS)
OPTIONS.add("--local-steps", 3, "optimizer steps per round", least=1)
OPTIONS.add("--repeats", 2, "runs of each, in turn", least=1)
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
