import sys

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.rank_latency.measure import main

if __name__ == "__main__":
    sys.exit(cli.command(main))
