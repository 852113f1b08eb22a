"""Options of the benchmark."""

from typing import Any

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.deadlines.measure import measure
from integration_tests.benchmarks.deadlines.result import result
from integration_tests.benchmarks.decode.servers import add_options

OPTIONS = cli.Options(__package__)
add_options(OPTIONS, tokens=32, repeats=2)
OPTIONS.add("--expert", help="a real expert; its answers are canned without it", metavar="MODEL")
steps: dict[str, Any] = {"above": 0, "metavar": "STEPS"}
OPTIONS.add("--latencies", (0.5, 1.0, 2.0), "the expert's, medians, in host steps", **steps)
OPTIONS.add("--deadlines", (0.5, 1.0, 1.5, 2.0, 4.0), "in host steps", **steps)
OPTIONS.add("--sigma", 0.6, "scatter of the latencies' logarithms")
OPTIONS.add("--seed", 0, "of the latencies")


def check(options: cli.Namespace) -> str | None:
    return "--sigma is not negative" if options.sigma < 0 else None


main = cli.main_of(OPTIONS, measure, result, check=check)

if __name__ == "__main__":
    cli.run(main)
