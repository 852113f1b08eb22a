"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.fusion_cost.measure import measure
from integration_tests.benchmarks.fusion_cost.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--rows", (1, 8, 32), least=1)
OPTIONS.add("--vocabulary", (151_936, 262_144), least=1)
OPTIONS.add("--k", (20, 100, 1000), least=1)
OPTIONS.add("--repeats", 25, "timed runs of each", least=1)
OPTIONS.add("--synthetic", help="leave the models alone", action="store_true")
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
