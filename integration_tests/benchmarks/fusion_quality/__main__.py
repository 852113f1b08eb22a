"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import GEMMA, SMOLLM2
from integration_tests.benchmarks.fusion_quality.measure import measure
from integration_tests.benchmarks.fusion_quality.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--host", GEMMA, "the host: embedded:NAME, a folder or a hub id")
OPTIONS.add("--expert", SMOLLM2, "the expert, likewise")
OPTIONS.add("--further-hosts", help="other hosts for the same expert, likewise", nargs="+")
OPTIONS.add("--reversed", help="in the other direction as well", action="store_true")
OPTIONS.add(
    "--text",
    help="a .jsonl file, one document per line; any other file, one document; embedded:TASK (those "
    "of ../shared/data where they are there, and embedded:code)",
    nargs="+",
)
OPTIONS.add("--limit-bytes", help="read at most this much of each file", type=int, least=1)
OPTIONS.add("--seed", 0, "of the embedded tasks")
OPTIONS.add("--top-k", 100, "tokens that the expert tells of each distribution", least=1)
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
