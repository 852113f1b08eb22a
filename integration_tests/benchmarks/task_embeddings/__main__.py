"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import SMOLLM2
from integration_tests.benchmarks.task_embeddings.measure import measure
from integration_tests.benchmarks.task_embeddings.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--model", SMOLLM2, "base model")
OPTIONS.add("--data", help="JSONL files separated by commas, one task each, beside code")
OPTIONS.add("--nodes", 15, least=4)
OPTIONS.add("--texts", 8, "texts of a node", least=2)
OPTIONS.add("--mixed", 3, "nodes with texts of other tasks", least=0)
OPTIONS.add("--share", 0.2, "share of these texts", above=0, below=1)
OPTIONS.add("--max-length", 64, "tokens of a text")
OPTIONS.add("--noise", (0.0, 0.002, 0.005, 0.01, 0.05), "standard deviations of the noise", least=0)
OPTIONS.add("--seed", 0, "of texts and noise")


def check(options: cli.Namespace) -> str | None:
    return "--mixed is at most --nodes" if options.mixed > options.nodes else None


main = cli.main_of(OPTIONS, measure, result, check=check)

if __name__ == "__main__":
    cli.run(main)
