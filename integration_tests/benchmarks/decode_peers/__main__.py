"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import SMOLLM2
from integration_tests.benchmarks.decode.servers import add_options
from integration_tests.benchmarks.decode_peers.measure import measure
from integration_tests.benchmarks.decode_peers.result import result

OPTIONS = cli.Options(__package__)
add_options(OPTIONS, tokens=64, repeats=3)
OPTIONS.add("--expert", SMOLLM2, "expert's model")
OPTIONS.add(
    "--latency", help="a canned expert, that many host steps away", type=float, metavar="STEPS"
)
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
