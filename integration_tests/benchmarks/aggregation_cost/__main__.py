"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.aggregation_cost.measure import measure
from integration_tests.benchmarks.aggregation_cost.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--clients", (8, 32, 128, 1000), "numbers of devices", least=1)
OPTIONS.add("--size", ("576x1536", "2048x2048", "4096x4096"), "sizes MxN")
OPTIONS.add("--repeats", 5, "timed runs of Floe per case", least=1)
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
