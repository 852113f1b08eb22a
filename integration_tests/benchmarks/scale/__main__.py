"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import SMOLLM2
from integration_tests.benchmarks.scale.measure import measure
from integration_tests.benchmarks.scale.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--model", SMOLLM2, "base model; its shapes alone count")
OPTIONS.add("--devices", (1_000, 2_000, 10_000), least=200)
OPTIONS.add("--blocks", 1, "of the model that the devices' adapters have in the runs", least=1)
OPTIONS.add("--terms", 256, "rank-one terms of the whole model's replies, per rank", least=1)
OPTIONS.add("--streams", (1, 100, 1_000), least=1)
OPTIONS.add("--k", (20, 100, 1_000), "logprobs per stream", least=1)
OPTIONS.add("--text", 512, "expert tokens of a stream's text", least=1)
OPTIONS.add("--calls", 3, "timed calls of each size", least=1)
OPTIONS.add("--repeats", 15, "timed fusions of each K", least=1)
OPTIONS.add("--forward-ms", 50.0, "milliseconds of the host's forward pass to reckon with", above=0)
OPTIONS.add("--seed", 0, "of embeddings and adapters")
main = cli.main_of(OPTIONS, measure, result)

if __name__ == "__main__":
    cli.run(main)
