"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import GEMMA, SMOLLM2
from integration_tests.benchmarks.decode.servers import add_options
from integration_tests.benchmarks.decode_overlap.measure import PARTS, measure
from integration_tests.benchmarks.decode_overlap.result import result

OPTIONS = cli.Options(__package__)
add_options(OPTIONS, tokens=64, repeats=3)
OPTIONS.add("--far-host", GEMMA, "of lookahead")
OPTIONS.add("--far-expert", SMOLLM2, "of lookahead")
OPTIONS.add("--drafting-host", SMOLLM2, "of drafts")
OPTIONS.add("--drafting-expert", GEMMA, "of drafts")
OPTIONS.add("--drafting-tokens", 24, "per answer, of drafts", least=8)
OPTIONS.add("--parts", PARTS, "what to measure", choices=PARTS)
OPTIONS.add("--latencies", (0.2, 0.5, 0.8, 1.0, 2.0), "of the expert", least=0, metavar="STEPS")
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
