import sys

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.aggregation_cost.measure import main

if __name__ == "__main__":
    sys.exit(cli.command(main))
