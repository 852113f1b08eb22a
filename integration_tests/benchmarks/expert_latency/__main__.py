"""Options of the benchmark."""

from integration_tests.benchmarks import cli
from integration_tests.benchmarks.data import SMOLLM2
from integration_tests.benchmarks.expert_latency.measure import WAYS, measure
from integration_tests.benchmarks.expert_latency.result import result

OPTIONS = cli.Options(__package__)
OPTIONS.add("--model", SMOLLM2, "the expert's model, which both servers read")
OPTIONS.add(
    "--ways", WAYS, "servers, vllm+sessions being vLLM with Floe's middleware", choices=WAYS
)
OPTIONS.add("--contexts", (200, 1500), "tokens of a text when it begins to grow", least=16)
OPTIONS.add("--streams", (1, 8), "texts that are asked for in one call", least=1)
OPTIONS.add("--top-k", (20, 100), "logprobs a token", least=1)
OPTIONS.add("--steps", 24, "timed tokens of each text", least=4)


def check(options: cli.Namespace) -> str | None:
    twice = len(set(options.ways)) < len(options.ways)
    return "--ways names one of them twice" if twice else None


main = cli.main_of(OPTIONS, measure, result, check=check)

if __name__ == "__main__":
    cli.run(main)
