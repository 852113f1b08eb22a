"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.step_cost.measure import measure
from integration_tests.benchmarks.step_cost.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--rows", (1, 8, 64, 256), least=1)
OPTIONS.add("--k", (20,), least=1)
OPTIONS.add("--context", 500, "host tokens before each answer", least=16)
OPTIONS.add("--seen", 16_000, "tokens of the text that are decoded before", least=0)
OPTIONS.add("--warm-up", 3, "steps before those that are timed", least=1)
OPTIONS.add("--steps", 9, "timed steps", least=1)
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
